package jointoken

import (
	"strings"
	"testing"
	"time"
)

func TestTokenReadsItsOwnText(t *testing.T) {
	for range 100 {
		want := New()
		got, err := Parse(want.String())
		if err != nil || got != want {
			t.Fatalf("Parse(%q) = %v, %v", want, got, err)
		}
	}
	if one, two := New(), New(); one == two {
		t.Error("two tokens are the same")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"", ".", "abcdef", "abcdef.", "abcdef.0123456789abcde", "Abcdef.0123456789abcdef", "abcdef.0123456789abcdef0", "abcdef.0123456789abcdef\n"} {
		if got, err := Parse(text); err == nil {
			t.Errorf("Parse(%q) = %v", text, got)
		}
	}
}

func TestObject(t *testing.T) {
	token := Token{ID: "abcdef", Secret: "0123456789abcdef"}
	s := token.Object("for a test", time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC))
	if s.Name != "bootstrap-token-abcdef" || s.Namespace != "kube-system" || s.Type != "bootstrap.kubernetes.io/token" {
		t.Errorf("the Secret is %s/%s of type %s", s.Namespace, s.Name, s.Type)
	}
	if got := s.StringData["expiration"]; got != "2030-01-02T03:04:05Z" {
		t.Errorf("expires %q", got)
	}
	if s := token.Object("", time.Time{}); s.StringData["expiration"] != "" || s.StringData["description"] != "" {
		t.Errorf("what is not said is there: %v", s.StringData)
	}
}

// The hash was made with openssl from the same certificate, by kubeadm's recipe.
func TestCAHash(t *testing.T) {
	const ca = `-----BEGIN CERTIFICATE-----
MIIBfzCCASWgAwIBAgIUUlUGzyMAoqHErF923HCXNOTREDUwCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKa3ViZXJuZXRlczAeFw0yNjExMjMyMzQyNDZaFw0zNjExMjAy
MzQyNDZaMBUxEzARBgNVBAMMCmt1YmVybmV0ZXMwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAT6yzfl5dVCFZpOheH0JjDqlAfpDMKi1kklkhbO1nBMMGBhvnZIZ94K
jjcvxPRq3tdVqBlwniA1Iid4DXtHCIYWo1MwUTAdBgNVHQ4EFgQUb/DAn0bOa11E
mPjYmSjAn4RLHGIwHwYDVR0jBBgwFoAUb/DAn0bOa11EmPjYmSjAn4RLHGIwDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiBgE8z/i6qDKS1kGJhyAL8h
9aGd2v4IbIzETCSG/D5mpQIhAO9Q0Eig6k4594s5dvZHI9dtfPCbXAQvA4TgA2Y6
A19J
-----END CERTIFICATE-----
`
	got, err := CAHash([]byte(ca))
	if want := "sha256:097373a372156c81cfec84df116713c0be8932a51bf225a12cff99bdc27c2a73"; err != nil || got != want {
		t.Errorf("CAHash = %q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{"", "text", strings.ReplaceAll(ca, "CERTIFICATE", "PUBLIC KEY")} {
		if got, err := CAHash([]byte(bad)); err == nil {
			t.Errorf("CAHash(%q) = %q", bad, got)
		}
	}
}
