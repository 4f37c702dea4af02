// Package api tests the API from outside, as clients see it: over HTTP, with
// client-go and with kubectl.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	kjson "sigs.k8s.io/json"

	"skiff/internal/cluster/testcluster"
)

// patience bounds every wait; it is only ever reached by a failing test.
const patience = time.Minute

const (
	mediaJSON     = "application/json"
	mediaYAML     = "application/yaml"
	mediaProtobuf = "application/vnd.kubernetes.protobuf"
)

// server is a running API server and ways to reach it.
type server struct {
	*testcluster.Cluster
	*testing.T
	kube kubernetes.Interface
	http *http.Client
}

func start(t *testing.T) *server {
	t.Helper()
	return over(t, testcluster.Start(t))
}

func over(t *testing.T, c *testcluster.Cluster) *server {
	t.Helper()
	hc, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hc.CloseIdleConnections)
	kube, err := kubernetes.NewForConfigAndClient(c.Config, hc)
	if err != nil {
		t.Fatal(err)
	}
	return &server{Cluster: c, T: t, kube: kube, http: hc}
}

// in returns s reporting to t, a subtest.
func (s *server) in(t *testing.T) *server {
	c := *s
	c.T = t
	return &c
}

// answer is what the server said.
type answer struct {
	Code   int
	Header http.Header
	Body   []byte
}

// call is one request.
type call struct {
	Method, Path      string
	Body              string
	Accept, Type      string
	User              string
	Header            map[string]string
	Client            *http.Client
	WithoutDecompress bool
}

func (s *server) do(c call) answer {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, c.Method, s.URL()+c.Path, strings.NewReader(c.Body))
	if err != nil {
		s.Fatal(err)
	}
	set := func(k, v string) {
		if v != "" {
			req.Header.Set(k, v)
		}
	}
	set("Accept", c.Accept)
	set("Content-Type", c.Type)
	if c.Type == "" && c.Body != "" {
		set("Content-Type", mediaJSON)
	}
	set("Impersonate-User", c.User)
	for k, v := range c.Header {
		set(k, v)
	}
	hc := s.http
	if c.Client != nil {
		hc = c.Client
	}
	res, err := hc.Do(req)
	if err != nil {
		s.Fatalf("%s %s: %v", c.Method, c.Path, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		s.Fatalf("%s %s: %v", c.Method, c.Path, err)
	}
	return answer{res.StatusCode, res.Header, body}
}

// ok makes a call that must succeed with the code.
func (s *server) ok(code int, c call) answer {
	s.Helper()
	a := s.do(c)
	if a.Code != code {
		s.Fatalf("%s %s: %d, not %d: %s", c.Method, c.Path, a.Code, code, a.Body)
	}
	return a
}

func (a answer) object(t testing.TB) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(a.Body, &u.Object); err != nil {
		t.Fatalf("the answer is not an object: %v: %s", err, a.Body)
	}
	return u
}

func (a answer) status(t testing.TB) *metav1.Status {
	t.Helper()
	out := &metav1.Status{}
	if err := json.Unmarshal(a.Body, out); err != nil || out.Kind != "Status" {
		t.Fatalf("the answer is not a Status: %v: %s", err, bytes.TrimSpace(a.Body))
	}
	return out
}

// get reads one field of an object by its path.
func get(t testing.TB, u *unstructured.Unstructured, path ...string) any {
	t.Helper()
	v, _, err := unstructured.NestedFieldNoCopy(u.Object, path...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// namespace makes a namespace.
func (s *server) namespace(name string) {
	s.Helper()
	s.ok(http.StatusCreated, call{Method: "POST", Path: "/api/v1/namespaces", Body: `{"metadata":{"name":"` + name + `"}}`})
}

// serviceAccount makes the account that pods of the namespace run as, which
// elsewhere a controller does.
func (s *server) serviceAccount(namespace string) {
	s.Helper()
	s.ok(http.StatusCreated, call{Method: "POST", Path: "/api/v1/namespaces/" + namespace + "/serviceaccounts", Body: `{"metadata":{"name":"default"}}`})
}

// compact makes the server forget all that was before.
func (s *server) compact() {
	s.Helper()
	state := s.Verbs.Cache()
	if err := state.Compact(context.Background(), state.Revision()); err != nil {
		s.Fatal(err)
	}
}

// event is one line of a watch.
type event struct {
	Type   string
	Object map[string]any
}

// events is an open watch.
type events struct {
	t    testing.TB
	read *json.Decoder
}

// stream opens a watch; it ends with the test.
func (s *server) stream(c call) *events {
	s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	timer := time.AfterFunc(patience, cancel)
	s.Cleanup(func() { timer.Stop(); cancel() })
	req, err := http.NewRequestWithContext(ctx, c.Method, s.URL()+c.Path, nil)
	if err != nil {
		s.Fatal(err)
	}
	if c.Accept != "" {
		req.Header.Set("Accept", c.Accept)
	}
	res, err := s.http.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(res.Body)
		s.Fatalf("%s %s: %d: %s", c.Method, c.Path, res.StatusCode, body)
	}
	return &events{s, json.NewDecoder(res.Body)}
}

// socket opens a WebSocket; it ends with the test.
func (s *server) socket(path string, protocols ...string) *websocket.Conn {
	s.Helper()
	tlsConfig, err := rest.TLSConfigFor(s.Config)
	if err != nil {
		s.Fatal(err)
	}
	dialer := websocket.Dialer{TLSClientConfig: tlsConfig, Subprotocols: protocols}
	conn, res, err := dialer.Dial("wss"+strings.TrimPrefix(s.URL(), "https")+path, nil)
	if err != nil {
		s.Fatalf("%s: %v %v", path, err, res)
	}
	s.Cleanup(func() { conn.Close() })
	return conn
}

// next returns the next event.
func (e *events) next() event {
	e.t.Helper()
	var out event
	if err := e.read.Decode(&out); err != nil {
		e.t.Fatalf("the watch ended: %v", err)
	}
	return out
}

// configMap makes a ConfigMap with one key.
func (s *server) configMap(namespace, name, value string) *unstructured.Unstructured {
	s.Helper()
	return s.ok(http.StatusCreated, call{Method: "POST", Path: "/api/v1/namespaces/" + namespace + "/configmaps",
		Body: `{"metadata":{"name":"` + name + `"},"data":{"key":"` + value + `"}}`}).object(s)
}

// until waits for a condition.
func (s *server) until(what string, done func() bool) {
	s.Helper()
	deadline := time.Now().Add(patience)
	for !done() {
		if time.Now().After(deadline) {
			s.Fatalf("%s: not within %s", what, patience)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
