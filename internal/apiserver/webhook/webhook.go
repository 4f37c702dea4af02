// Package webhook calls HTTPS webhooks: it finds where a webhook is, by URL or
// by Service, and posts a review object to it as JSON. Admission and the
// conversion of custom resources use it.
package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/lru"

	"skiff/internal/apiserver/weakcerts"
)

const (
	// maxClients bounds how many connections to different webhooks are kept.
	maxClients = 256
	// maxResponse is the longest answer that is read, in bytes.
	maxResponse = 64 << 20
	dialTimeout = 30 * time.Second
)

// Resolver tells where connections to a port of a Service go.
type Resolver interface {
	Resolve(ctx context.Context, namespace, name, port string) (hostPort string, err error)
}

// Target is where a webhook is. Exactly one of URL and Service is set.
type Target struct {
	URL     string
	Service *Service
	// CABundle holds the PEM certificates that the webhook's chain must end in;
	// empty means the machine's roots.
	CABundle []byte
}

// Service refers to a webhook behind a Service. Port 0 is 443.
type Service struct {
	Namespace, Name, Path string
	Port                  int32
}

// Client calls webhooks. It keeps connections for the targets called last.
type Client struct {
	resolver    Resolver
	credentials *Credentials // nil: none
	clients     *lru.Cache   // by clientKey
	// WeakCerts counts certificates that will not do for long; nil counts none.
	WeakCerts *weakcerts.Counters
}

type clientKey struct {
	host     string
	service  bool
	caBundle string
}

// New returns a client that finds Services through resolver.
func New(resolver Resolver) *Client {
	return &Client{resolver: resolver, clients: lru.NewWithEvictionFunc(maxClients, func(_ lru.Key, value any) {
		value.(*http.Client).CloseIdleConnections()
	})}
}

// Call posts in as JSON to the target and reads its JSON answer into out. It
// takes no longer than timeout, which the webhook is told in the query. An
// answer with another status than success is an API error.
func (c *Client) Call(ctx context.Context, t Target, timeout time.Duration, in, out any) error {
	u, err := t.url()
	if err != nil {
		return err
	}
	client, err := c.client(&t, u)
	if err != nil {
		return err
	}
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if timeout > 0 {
		q := u.Query()
		q.Set("timeout", timeout.String())
		u.RawQuery = q.Encode()
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, */*")
	req.Header.Set("User-Agent", "kube-apiserver-admission")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", u, err)
	}
	if len(data) > maxResponse {
		return fmt.Errorf("the answer of %s is longer than %d bytes", u, maxResponse)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return statusError(resp.StatusCode, data)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("couldn't get version/kind; json parse error: %w", err)
	}
	return nil
}

// statusError is the Status that a webhook answered instead, or one made of
// the HTTP status.
func statusError(code int, body []byte) error {
	var status metav1.Status
	if json.Unmarshal(body, &status) == nil && status.Kind == "Status" && status.Status != metav1.StatusSuccess {
		return &apierrors.StatusError{ErrStatus: status}
	}
	return apierrors.NewGenericServerResponse(code, http.MethodPost, schema.GroupResource{}, "", string(bytes.TrimSpace(body)), 0, true)
}

func (t *Target) url() (*url.URL, error) {
	if t.Service == nil {
		u, err := url.Parse(t.URL)
		if err != nil {
			return nil, fmt.Errorf("the webhook's URL: %w", err)
		}
		if u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("the webhook's URL %q must have the form https://host/path", t.URL)
		}
		return u, nil
	}
	port := t.Service.Port
	if port == 0 {
		port = 443
	}
	path := t.Service.Path
	if path == "" {
		path = "/"
	}
	return &url.URL{
		Scheme: "https", Path: path,
		Host: net.JoinHostPort(t.Service.Name+"."+t.Service.Namespace+".svc", strconv.Itoa(int(port))),
	}, nil
}

func (c *Client) client(t *Target, u *url.URL) (*http.Client, error) {
	key := clientKey{u.Host, t.Service != nil, string(t.CABundle)}
	if have, ok := c.clients.Get(key); ok {
		return have.(*http.Client), nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(t.CABundle) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(t.CABundle) {
			return nil, errors.New("unable to load root certificates: the webhook's caBundle holds no PEM certificate")
		}
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	transport := &http.Transport{
		TLSClientConfig: conf, TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second,
		MaxIdleConnsPerHost: 25, ForceAttemptHTTP2: true, DialContext: dialer.DialContext,
	}
	if service := t.Service; service != nil {
		namespace, name, port := service.Namespace, service.Name, u.Port()
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			addr, err := c.resolver.Resolve(ctx, namespace, name, port)
			if err != nil {
				return nil, err
			}
			return dialer.DialContext(ctx, network, addr)
		}
	} else {
		transport.Proxy = http.ProxyFromEnvironment
	}
	proving, err := c.credentials.apply(u.Host, transport)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: c.WeakCerts.Wrap(proving)}
	c.clients.Add(key, client)
	return client, nil
}
