package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/utils/clock"
)

// Authority signs certificates.
type Authority struct {
	Certificate *x509.Certificate
	// PEM is the certificate as clients are given it.
	PEM []byte

	key   *ecdsa.PrivateKey
	clock clock.PassiveClock
}

const damagedAuthority = "restore it from a backup; only if there is none, and every node may join anew, remove %s and %s and start again"

func openAuthority(dir, name, commonName string, c clock.PassiveClock) (*Authority, error) {
	certFile, keyFile := path(dir, name, "crt"), path(dir, name, "key")
	damaged := func(file string, err error) error {
		return fmt.Errorf("certificate authority: %s: %w: "+damagedAuthority, file, err, certFile, keyFile)
	}
	certPEM, err := os.ReadFile(certFile)
	hasCert := !errors.Is(err, fs.ErrNotExist)
	if hasCert && err != nil {
		return nil, err
	}
	if hasCert {
		if _, err := os.Stat(keyFile); err != nil {
			return nil, damaged(keyFile, err)
		}
	}
	key, err := openKey(keyFile)
	if err != nil {
		return nil, damaged(keyFile, err)
	}
	if hasCert {
		certs, err := cert.ParseCertsPEM(certPEM)
		switch {
		case err != nil:
			return nil, damaged(certFile, err)
		case !key.PublicKey.Equal(certs[0].PublicKey):
			return nil, damaged(certFile, fmt.Errorf("does not belong to the key in %s", keyFile))
		case !certs[0].IsCA:
			return nil, damaged(certFile, errors.New("is not the certificate of an authority"))
		case c.Now().After(certs[0].NotAfter):
			return nil, damaged(certFile, fmt.Errorf("ended on %s", certs[0].NotAfter.Format(time.DateOnly)))
		}
		return &Authority{Certificate: certs[0], PEM: certPEM, key: key, clock: c}, nil
	}
	a := &Authority{key: key, clock: c}
	now := c.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		DNSNames:              []string{commonName},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caValidity),
		KeyUsage:              x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	a.Certificate = template
	if a.PEM, a.Certificate, err = a.issue(template, &key.PublicKey); err != nil {
		return nil, err
	}
	return a, writeFile(certFile, a.PEM, 0o644)
}

// issue signs template for the given public key.
func (a *Authority) issue(template *x509.Certificate, public any) ([]byte, *x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, public, a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("signing the certificate of %s: %w", template.Subject, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	encoded, err := cert.EncodeCertificates(leaf)
	return encoded, leaf, err
}

// Sign answers a CertificateSigningRequest: a certificate for the request's
// subject, names and key, with the given usages. It lasts for the given time,
// but not longer than the authority.
func (a *Authority) Sign(request *x509.CertificateRequest, lasting time.Duration, usages []certificatesv1.KeyUsage) ([]byte, error) {
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the request is not signed by its own key: %w", err)
	}
	keyUsage, extUsages, err := keyUsages(usages)
	if err != nil {
		return nil, err
	}
	now := a.clock.Now()
	template := &x509.Certificate{
		Subject:               request.Subject,
		DNSNames:              request.DNSNames,
		IPAddresses:           request.IPAddresses,
		EmailAddresses:        request.EmailAddresses,
		URIs:                  request.URIs,
		KeyUsage:              keyUsage,
		ExtKeyUsage:           extUsages,
		BasicConstraintsValid: true,
		NotBefore:             now.Add(-min(backdate, lasting/2)),
		NotAfter:              now.Add(lasting),
	}
	if template.NotAfter.After(a.Certificate.NotAfter) {
		template.NotAfter = a.Certificate.NotAfter
	}
	encoded, _, err := a.issue(template, request.PublicKey)
	return encoded, err
}

// Pool returns a pool that holds just this authority.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Certificate)
	return pool
}

// Hash identifies the authority by its public key, in the form that joining
// nodes are given (sha256:<hex>, as kubeadm's --discovery-token-ca-cert-hash).
func (a *Authority) Hash() string { return Hash(a.Certificate) }

// Hash is Authority.Hash for any certificate.
func Hash(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// openKey reads a private key, or makes it if the file does not exist.
func openKey(file string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = keyutil.MakeEllipticPrivateKeyPEM(); err == nil {
			err = writeFile(file, data, 0o600)
		}
	}
	if err != nil {
		return nil, err
	}
	parsed, err := keyutil.ParsePrivateKeyPEM(data)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("is a %T where an ECDSA key is needed", parsed)
	}
	return key, nil
}

func openServiceAccountKey(dir string) (*ecdsa.PrivateKey, error) {
	file := path(dir, "sa", "key")
	key, err := openKey(file)
	if err != nil {
		return nil, fmt.Errorf("service account key: %s: %w: restore it from a backup, or remove it and start again; tokens signed by it are void then", file, err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	return key, writeIfChanged(path(dir, "sa", "pub"), pemBlock("PUBLIC KEY", public), 0o644)
}
