// Package weakcerts counts the servers that this one calls (webhooks, extension
// servers) whose certificates will not do for long: those without subject
// alternative names, which are refused, and those signed by way of SHA-1.
package weakcerts

import (
	"crypto/x509"
	"errors"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Counters are what is counted of one kind of servers. Nil ones count nothing.
type Counters struct{ missingNames, sha1 prometheus.Counter }

// New makes the counters of servers that metrics name by prefix.
func New(reg prometheus.Registerer, prefix string) *Counters {
	auto := promauto.With(reg)
	return &Counters{
		missingNames: auto.NewCounter(prometheus.CounterOpts{Name: prefix + "_x509_missing_san_total", Help: "Calls of servers whose certificate has no subject alternative name."}),
		sha1:         auto.NewCounter(prometheus.CounterOpts{Name: prefix + "_x509_insecure_sha1_total", Help: "Calls of servers whose certificate is signed with SHA-1."}),
	}
}

// Wrap returns a transport that looks at the certificates that t meets.
func (c *Counters) Wrap(t http.RoundTripper) http.RoundTripper {
	if c == nil {
		return t
	}
	return &transport{t, c}
}

type transport struct {
	http.RoundTripper
	*Counters
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(r)
	var name x509.HostnameError
	switch {
	case errors.As(err, &name) && strings.Contains(err.Error(), "legacy Common Name"):
		t.missingNames.Inc()
	case err == nil && response.TLS != nil && sha1(response.TLS.PeerCertificates):
		t.sha1.Inc()
	}
	return response, err
}

// WrappedRoundTripper lets others find the transport below.
func (t *transport) WrappedRoundTripper() http.RoundTripper { return t.RoundTripper }

// sha1 reports whether one of the certificates, the root aside, is signed so.
func sha1(chain []*x509.Certificate) bool {
	for _, c := range chain {
		if (c.SignatureAlgorithm == x509.SHA1WithRSA || c.SignatureAlgorithm == x509.ECDSAWithSHA1) && c.Issuer.String() != c.Subject.String() {
			return true
		}
	}
	return false
}
