package aggregate

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"skiff/internal/identity"
)

// maxDocument is the longest discovery or OpenAPI document that is read.
const maxDocument = 64 << 20

// Extension is a group version that another API server answers.
type Extension struct {
	schema.GroupVersion
	Priority Priority

	aggregator *Aggregator
	service    *apiregistrationv1.APIService
	transport  *http.Transport
	round      http.RoundTripper // transport, counted
	stop       context.CancelFunc

	mu struct {
		sync.RWMutex
		available bool
		// resources is the server's own list, as it was when it last answered.
		resources *metav1.APIResourceList
		raw       []byte
	}
}

func (a *Aggregator) newExtension(ctx context.Context, s *apiregistrationv1.APIService) *Extension {
	e := &Extension{
		GroupVersion: versionOf(s), Priority: Priority{s.Spec.GroupPriorityMinimum, s.Spec.VersionPriority},
		aggregator: a, service: s,
	}
	// Until the first look, what the last one found still holds.
	for _, c := range s.Status.Conditions {
		if c.Type == apiregistrationv1.Available {
			e.mu.available = c.Status == apiregistrationv1.ConditionTrue
		}
	}
	conf := &tls.Config{
		MinVersion: tls.VersionTLS12, GetClientCertificate: a.Certificate,
		ServerName: s.Spec.Service.Name + "." + s.Spec.Service.Namespace + ".svc", InsecureSkipVerify: s.Spec.InsecureSkipTLSVerify,
	}
	if len(s.Spec.CABundle) > 0 {
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM(s.Spec.CABundle)
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	e.transport = &http.Transport{
		TLSClientConfig: conf, TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: 25,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			addr, err := a.Resolver.Resolve(ctx, s.Spec.Service.Namespace, s.Spec.Service.Name, e.port())
			if err != nil {
				return nil, err
			}
			return dialer.DialContext(ctx, network, addr)
		},
	}
	e.round = a.WeakCerts.Wrap(e.transport)
	ctx, cancel := context.WithCancel(ctx)
	e.stop = func() {
		cancel()
		e.transport.CloseIdleConnections()
	}
	go e.watchOver(ctx)
	return e
}

func (e *Extension) port() string {
	if p := e.service.Spec.Service.Port; p != nil {
		return strconv.Itoa(int(*p))
	}
	return "443"
}

func (e *Extension) url(path string) *url.URL {
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(e.transport.TLSClientConfig.ServerName, e.port()), Path: path}
}

// Resources returns what the server last said it serves; stale tells that it
// does not answer now.
func (e *Extension) Resources() (list *metav1.APIResourceList, stale bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.mu.resources, !e.mu.available
}

// ServeHTTP hands a request on to the server.
func (e *Extension) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.RLock()
	available := e.mu.available
	e.mu.RUnlock()
	user := identity.FromContext(r.Context())
	if !available || user == nil {
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
		return
	}
	r = r.Clone(r.Context())
	for name := range r.Header {
		// The requester's credentials are for this server alone, and what its
		// headers say of identities is not to be believed.
		if name == "Authorization" || strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-") {
			r.Header.Del(name)
		}
	}
	transport.SetAuthProxyHeaders(r, user.Name, user.UID, user.Groups, user.Extra)
	location := e.url(r.URL.Path)
	location.RawQuery = r.URL.RawQuery
	h := proxy.NewUpgradeAwareHandler(location, e.round, false, httpstream.IsUpgradeRequest(r), responder{})
	h.UseLocationHost = true
	h.ServeHTTP(w, r)
}

// responder answers when the server cannot be reached.
type responder struct{}

func (responder) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, "error trying to reach service: "+err.Error(), http.StatusServiceUnavailable)
}

// Get reads a document of the server, as this server itself.
func (e *Extension) Get(ctx context.Context, path, accept string) ([]byte, error) {
	data, _, err := e.Read(ctx, path, accept, "")
	return data, err
}

// Read reads a document as Get does, and its entity tag; it is nil if it still
// has the tag that the last one had.
func (e *Extension) Read(ctx context.Context, path, accept, last string) (data []byte, tag string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	u := e.url(path)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, "", err
	}
	r.Header.Set("Accept", accept)
	if last != "" {
		r.Header.Set("If-None-Match", last)
	}
	transport.SetAuthProxyHeaders(r, "system:kube-aggregator", "", []string{identity.GroupMasters}, nil)
	resp, err := e.round.RoundTrip(r)
	if err != nil {
		return nil, "", fmt.Errorf("failing or missing response from %v: %w", u, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified && last != "" {
		return nil, last, nil
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, "", fmt.Errorf("failing or missing response from %v: bad status from %v: %d", u, u, resp.StatusCode)
	}
	data, err = io.ReadAll(io.LimitReader(resp.Body, maxDocument))
	return data, resp.Header.Get("Etag"), err
}

// learn notes what a look at the server found and tells discovery if that is
// something new.
func (e *Extension) learn(available bool, document []byte) {
	e.mu.Lock()
	changed := e.mu.available != available
	e.mu.available = available
	if document != nil && !bytes.Equal(document, e.mu.raw) {
		list := &metav1.APIResourceList{}
		// A document that says nothing we know leaves the version empty.
		if err := json.Unmarshal(document, list); err == nil {
			e.mu.resources, e.mu.raw, changed = list, document, true
		}
	}
	e.mu.Unlock()
	if changed {
		e.aggregator.learned()
	}
}
