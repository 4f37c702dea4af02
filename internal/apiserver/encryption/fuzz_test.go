package encryption

import (
	"bytes"
	"testing"
)

// FuzzDecrypt feeds stored values that nobody encrypted.
func FuzzDecrypt(f *testing.F) {
	secret := bytes.Repeat([]byte{1}, 32)
	var all chain
	for kind, make := range map[string]func([]byte) (provider, error){"aesgcm": newGCM, "aescbc": newCBC, "secretbox": newSecretbox} {
		p, err := make(secret)
		if err != nil {
			f.Fatal(err)
		}
		n := named{prefix + kind + ":v1:k:", p}
		sealed, err := chain{n}.encrypt(f.Context(), "/registry/a", []byte("plain"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(sealed)
		all = append(all, n)
	}
	all = append(all, named{"", identity{}})
	seal := sealedSeed{"key", []byte("seed"), map[string][]byte{"a": []byte("b")}, 1}
	f.Add(append([]byte("k8s:enc:kms:v2:x:"), seal.envelope([]byte("body"))...))
	f.Fuzz(func(t *testing.T, value []byte) {
		plain, _, err := all.decrypt(t.Context(), "/registry/a", value)
		if err == nil && bytes.HasPrefix(value, []byte(prefix+"aesgcm")) && string(plain) != "plain" {
			t.Errorf("%q was opened", value)
		}
		s, body, err := parseEnvelope(value)
		if err != nil {
			return
		}
		again, same, err := parseEnvelope(s.envelope(body))
		if err != nil || !bytes.Equal(body, same) || again.keyID != s.keyID || !bytes.Equal(again.ciphertext, s.ciphertext) {
			t.Errorf("%+v became %+v, %v", s, again, err)
		}
	})
}
