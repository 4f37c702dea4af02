package webhook

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

type resolver func(namespace, name, port string) (string, error)

func (r resolver) Resolve(_ context.Context, namespace, name, port string) (string, error) {
	return r(namespace, name, port)
}

func TestCall(t *testing.T) {
	hang := make(chan struct{})
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			var in map[string]string
			if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
				t.Error(err)
			}
			in["timeout"], in["host"] = r.URL.Query().Get("timeout"), r.Host
			_ = json.NewEncoder(w).Encode(in)
		case "/status":
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","message":"no","code":403}`)
		case "/text":
			http.Error(w, "broken", http.StatusInternalServerError)
		case "/nonsense":
			fmt.Fprint(w, "nonsense")
		case "/hang":
			<-hang
		}
	}))
	defer server.Close()
	defer close(hang)
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	c := New(resolver(func(namespace, name, port string) (string, error) {
		if namespace+"/"+name+":"+port != "example/hook:8443" {
			return "", fmt.Errorf("service %q not found", name)
		}
		return server.Listener.Addr().String(), nil
	}))
	call := func(target Target, timeout time.Duration) (map[string]string, error) {
		out := map[string]string{}
		err := c.Call(t.Context(), target, timeout, map[string]string{"a": "b"}, &out)
		return out, err
	}

	out, err := call(Target{URL: server.URL + "/echo", CABundle: bundle}, 5*time.Second)
	if err != nil || out["a"] != "b" || out["timeout"] != "5s" {
		t.Errorf("by URL: %v, %v", out, err)
	}
	// The test server's certificate is for example.com; a Service's must be for
	// <name>.<namespace>.svc.
	_, err = call(Target{Service: &Service{Namespace: "example", Name: "hook", Path: "/echo", Port: 8443}, CABundle: bundle}, time.Minute)
	if err == nil || !strings.Contains(err.Error(), `Post "https://hook.example.svc:8443/echo?timeout=1m0s": tls: failed to verify certificate`) || !strings.Contains(err.Error(), "hook.example.svc") {
		t.Errorf("a certificate for another name: %v", err)
	}

	for name, test := range map[string]struct {
		target  Target
		timeout time.Duration
		want    string
	}{
		"no such service": {Target{Service: &Service{Namespace: "x", Name: "y"}}, time.Minute, `Post "https://y.x.svc:443/?timeout=1m0s": service "y" not found`},
		"unknown root":    {Target{URL: server.URL + "/echo"}, time.Minute, "certificate signed by unknown authority"},
		"bad bundle":      {Target{URL: server.URL + "/echo", CABundle: []byte("x")}, time.Minute, "unable to load root certificates"},
		"no https":        {Target{URL: "http://x/"}, time.Minute, "must have the form https://host/path"},
		"status":          {Target{URL: server.URL + "/status", CABundle: bundle}, time.Minute, "no"},
		"text":            {Target{URL: server.URL + "/text", CABundle: bundle}, time.Minute, `an error on the server ("broken") has prevented the request from succeeding`},
		"nonsense":        {Target{URL: server.URL + "/nonsense", CABundle: bundle}, time.Minute, "json parse error"},
		"timeout":         {Target{URL: server.URL + "/hang", CABundle: bundle}, 20 * time.Millisecond, "context deadline exceeded"},
	} {
		if _, err := call(test.target, test.timeout); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
	if _, err := call(Target{URL: server.URL + "/status", CABundle: bundle}, time.Minute); !apierrors.IsForbidden(err) {
		t.Errorf("a Status answer: %v", err)
	}
	if _, err := call(Target{URL: server.URL + "/hang", CABundle: bundle}, time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the timeout is not to be told: %v", err)
	}
}
