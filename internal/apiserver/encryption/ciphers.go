package encryption

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"

	"golang.org/x/crypto/nacl/secretbox"
)

// identity stores values as they are.
type identity struct{}

func (identity) encrypt(_ context.Context, data, _ []byte) ([]byte, error) { return data, nil }

func (identity) decrypt(_ context.Context, data, _ []byte) ([]byte, bool, error) {
	return data, false, nil
}

// gcm is AES-GCM: nonce, then the sealed data, bound to the key in the store.
type gcm struct{ aead cipher.AEAD }

func newGCM(secret []byte) (provider, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return gcm{aead}, err
}

// sealed returns a nonce and the sealed data, after head.
func (g gcm) sealed(head, data, associated []byte) []byte {
	out := make([]byte, len(head)+g.aead.NonceSize(), len(head)+g.aead.NonceSize()+len(data)+g.aead.Overhead())
	copy(out, head)
	nonce := out[len(head):]
	// It never fails: the process ends if there is no randomness.
	_, _ = rand.Read(nonce)
	return g.aead.Seal(out, nonce, data, associated)
}

func (g gcm) encrypt(_ context.Context, data, associated []byte) ([]byte, error) {
	return g.sealed(nil, data, associated), nil
}

func (g gcm) decrypt(_ context.Context, data, associated []byte) ([]byte, bool, error) {
	n := g.aead.NonceSize()
	if len(data) < n {
		return nil, false, errShort
	}
	plain, err := g.aead.Open(nil, data[:n], data[n:], associated)
	return plain, false, err
}

// cbc is AES-CBC: the initial vector, then the data padded as PKCS #7 says.
type cbc struct{ block cipher.Block }

func newCBC(secret []byte) (provider, error) {
	block, err := aes.NewCipher(secret)
	return cbc{block}, err
}

func (c cbc) encrypt(_ context.Context, data, _ []byte) ([]byte, error) {
	padding := aes.BlockSize - len(data)%aes.BlockSize
	out := make([]byte, aes.BlockSize+len(data)+padding)
	vector, body := out[:aes.BlockSize], out[aes.BlockSize:]
	_, _ = rand.Read(vector) // as above
	copy(body, data)
	for i := len(data); i < len(body); i++ {
		body[i] = byte(padding)
	}
	cipher.NewCBCEncrypter(c.block, vector).CryptBlocks(body, body)
	return out, nil
}

func (c cbc) decrypt(_ context.Context, data, _ []byte) ([]byte, bool, error) {
	if len(data) < 2*aes.BlockSize {
		return nil, false, errShort
	}
	vector, body := data[:aes.BlockSize], data[aes.BlockSize:]
	if len(body)%aes.BlockSize != 0 {
		return nil, false, errors.New("the stored data is not a multiple of the block size")
	}
	plain := make([]byte, len(body))
	cipher.NewCBCDecrypter(c.block, vector).CryptBlocks(plain, body)
	padding := int(plain[len(plain)-1])
	if padding == 0 || padding > aes.BlockSize {
		return nil, false, errors.New("the stored data is not properly padded: the key is not the one it was encrypted with")
	}
	for _, b := range plain[len(plain)-padding:] {
		if int(b) != padding {
			return nil, false, errors.New("the stored data is not properly padded: the key is not the one it was encrypted with")
		}
	}
	return plain[:len(plain)-padding], false, nil
}

// box is XSalsa20 and Poly1305: nonce, then the sealed data.
type box struct{ key [32]byte }

const boxNonce = 24

func newSecretbox(secret []byte) (provider, error) { return &box{[32]byte(secret)}, nil }

func (b *box) encrypt(_ context.Context, data, _ []byte) ([]byte, error) {
	var nonce [boxNonce]byte
	_, _ = rand.Read(nonce[:]) // as above
	return secretbox.Seal(nonce[:], data, &nonce, &b.key), nil
}

func (b *box) decrypt(_ context.Context, data, _ []byte) ([]byte, bool, error) {
	if len(data) < boxNonce+secretbox.Overhead {
		return nil, false, errShort
	}
	plain, ok := secretbox.Open(nil, data[boxNonce:], (*[boxNonce]byte)(data), &b.key)
	if !ok {
		return nil, false, errors.New("the stored data cannot be opened: the key is not the one it was encrypted with")
	}
	return plain, false, nil
}
