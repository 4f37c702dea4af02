package webhook

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

func TestCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "webhooks.kubeconfig")
	text := `
apiVersion: v1
kind: Config
users:
- {name: "hook.policies.svc", user: {token: exact}}
- {name: "*.policies.svc", user: {token: namespace}}
- {name: "other.example.com:8443", user: {token: port}}
- {name: "*.example.com", user: {token: domain}}
- {name: "*", user: {token: all}}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadCredentials(file)
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"hook.policies.svc:443": "exact", "another.policies.svc:443": "namespace", "hook.policies.svc:8443": "all",
		"other.example.com:8443": "port", "a.b.example.com:443": "domain", "elsewhere:443": "all",
	} {
		if u := c.user(host); u == nil || u.Token != want {
			t.Errorf("%s: %v, want %s", host, u, want)
		}
	}
	if _, err := LoadCredentials("/nowhere"); err == nil {
		t.Error("a file that is not there is taken")
	}

	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(r.Header.Get("Authorization"))
	}))
	defer server.Close()
	target := Target{URL: server.URL, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})}
	plain, said := New(nil), ""
	if err := plain.Call(t.Context(), target, 0, nil, &said); err != nil || said != "" {
		t.Errorf("without credentials: %q, %v", said, err)
	}
	if err := plain.With(c).Call(t.Context(), target, 0, nil, &said); err != nil || said != "Bearer all" {
		t.Errorf("with credentials: %q, %v", said, err)
	}
}
