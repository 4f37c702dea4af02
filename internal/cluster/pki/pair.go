package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/utils/clock"
)

// Pair is a certificate and its key. The certificate changes when it is
// renewed: ask for it each time it is used.
type Pair struct {
	// CertFile and KeyFile are where the pair is kept.
	CertFile, KeyFile string

	subject subject
	by      *Authority
	key     *ecdsa.PrivateKey
	clock   clock.PassiveClock
	current atomic.Pointer[tls.Certificate]
}

// subject is what a certificate says about its holder.
type subject struct {
	user           string
	groups         []string
	names          []string
	ips            []netip.Addr
	server, client bool
}

func client(user string, groups ...string) subject {
	return subject{user: user, groups: groups, client: true}
}

// servingSubject is the API server as seen from the cluster, the machine and
// wherever else o says.
func servingSubject(o Options) subject {
	s := subject{user: "kube-apiserver", server: true}
	service := "kubernetes"
	for _, suffix := range []string{"", ".default", ".svc", "." + o.ClusterDomain} {
		service += suffix
		s.names = append(s.names, service)
	}
	s.names = append(append(s.names, "localhost"), o.Names...)
	s.ips = append([]netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}, o.IPs...)
	return s
}

// Certificate returns the pair as it is now.
func (p *Pair) Certificate() *tls.Certificate { return p.current.Load() }

// GetCertificate serves as tls.Config.GetCertificate.
func (p *Pair) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return p.Certificate(), nil
}

// GetClientCertificate serves as tls.Config.GetClientCertificate.
func (p *Pair) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return p.Certificate(), nil
}

// PEM returns certificate and key, encoded.
func (p *Pair) PEM() (certPEM, keyPEM []byte, err error) {
	if certPEM, err = cert.EncodeCertificates(p.Certificate().Leaf); err != nil {
		return nil, nil, err
	}
	keyPEM, err = keyutil.MarshalPrivateKeyToPEM(p.key)
	return certPEM, keyPEM, err
}

func openPair(dir, name string, by *Authority, s subject, c clock.PassiveClock) (*Pair, error) {
	s.normalize()
	p := &Pair{
		CertFile: path(dir, name, "crt"), KeyFile: path(dir, name, "key"),
		subject: s, by: by, clock: c,
	}
	damaged := func(file string, err error) error {
		return fmt.Errorf("certificate of %s: %s: %w: remove %s and %s and start again, new ones are made then",
			s.user, file, err, p.CertFile, p.KeyFile)
	}
	var err error
	if p.key, err = openKey(p.KeyFile); err != nil {
		return nil, damaged(p.KeyFile, err)
	}
	data, err := os.ReadFile(p.CertFile)
	if errors.Is(err, fs.ErrNotExist) {
		return p, p.renew()
	}
	if err != nil {
		return nil, err
	}
	certs, err := cert.ParseCertsPEM(data)
	if err != nil {
		return nil, damaged(p.CertFile, err)
	}
	leaf := certs[0]
	if !p.key.PublicKey.Equal(leaf.PublicKey) {
		return nil, damaged(p.CertFile, fmt.Errorf("does not belong to the key in %s", p.KeyFile))
	}
	p.set(leaf)
	if !c.Now().Before(p.renewAt()) || !s.fits(leaf) || leaf.CheckSignatureFrom(by.Certificate) != nil {
		return p, p.renew()
	}
	return p, nil
}

// renew makes a new certificate for the same key.
func (p *Pair) renew() error {
	now := p.clock.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: p.subject.user, Organization: p.subject.groups},
		DNSNames:              p.subject.names,
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(leafValidity),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
	for _, ip := range p.subject.ips {
		template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
	}
	if p.subject.server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if p.subject.client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if end := p.by.Certificate.NotAfter; template.NotAfter.After(end) {
		template.NotAfter = end
	}
	encoded, leaf, err := p.by.issue(template, &p.key.PublicKey)
	if err != nil {
		return err
	}
	if err := writeFile(p.CertFile, encoded, 0o644); err != nil {
		return err
	}
	p.set(leaf)
	return nil
}

func (p *Pair) set(leaf *x509.Certificate) {
	p.current.Store(&tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: p.key, Leaf: leaf})
}

// renewAt is when the certificate should be renewed.
func (p *Pair) renewAt() time.Time { return p.Certificate().Leaf.NotAfter.Add(-renewBefore) }

// normalize drops doubles and puts names in order, so that equal wishes make
// equal certificates.
func (s *subject) normalize() {
	s.names = slices.Compact(slices.Sorted(slices.Values(s.names)))
	s.names = slices.DeleteFunc(s.names, func(n string) bool { return n == "" })
	ips := make([]netip.Addr, 0, len(s.ips))
	for _, ip := range s.ips {
		if ip.IsValid() && !ip.IsUnspecified() {
			ips = append(ips, ip.Unmap().WithZone(""))
		}
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	s.ips = slices.Compact(ips)
}

// fits reports whether the certificate says just this about its holder.
func (s *subject) fits(leaf *x509.Certificate) bool {
	sameIP := func(a netip.Addr, b net.IP) bool { return net.IP(a.AsSlice()).Equal(b) }
	return leaf.Subject.CommonName == s.user && slices.Equal(leaf.Subject.Organization, s.groups) &&
		slices.Equal(leaf.DNSNames, s.names) && slices.EqualFunc(s.ips, leaf.IPAddresses, sameIP)
}

// Run renews certificates before they end, until ctx ends. A renewal that fails
// is logged and tried again an hour later.
func (b *Bundle) Run(ctx context.Context, log *slog.Logger) error {
	for {
		b.mu.Lock()
		pairs := slices.Clone(b.mu.pairs)
		b.mu.Unlock()
		now := b.clock.Now()
		// Pairs opened later are new, or just renewed: a day is early enough
		// to see them.
		wait := 24 * time.Hour
		for _, p := range pairs {
			left := p.renewAt().Sub(now)
			// An authority about to end itself cannot sign for longer: renewing
			// would change nothing.
			if left <= 0 && p.Certificate().Leaf.NotAfter.Before(p.by.Certificate.NotAfter) {
				left = time.Hour
				if err := p.renew(); err != nil {
					log.Error("renewing a certificate failed", "file", p.CertFile, "err", err)
				} else {
					log.Info("renewed a certificate", "file", p.CertFile)
				}
			}
			if left > 0 {
				wait = min(wait, left)
			}
		}
		timer := b.clock.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C():
		}
	}
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// writeIfChanged leaves a file alone that already holds data.
func writeIfChanged(file string, data []byte, mode os.FileMode) error {
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return writeFile(file, data, mode)
}
