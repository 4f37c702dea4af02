package apiserver

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func FuzzPath(f *testing.F) {
	for _, p := range []string{"/api/v1/namespaces/a/pods/b/proxy/c/d/", "/apis/apps/v1/watch/namespaces/x/deployments/y", "/api", "/apis//v1/pods", "/api/v1/namespaces/%2f/pods", "//api/v1/pods"} {
		f.Add("GET", p, "watch=1&fieldSelector=metadata.name%3Dx")
	}
	f.Fuzz(func(t *testing.T, method, path, query string) {
		r := &http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: query}}
		info := parseRequest(r)
		if !info.IsResource && (info.Resource != "" || info.Namespace != "" || info.Name != "") {
			t.Errorf("a path that is no resource's has one: %+v", info)
		}
		// What authorization is asked about must be what is served.
		if info.IsResource && !strings.HasPrefix(strings.TrimLeft(path, "/"), "api") {
			t.Errorf("%q is taken for a resource", path)
		}
		info.longRunning()
		info.scope()
	})
}

func FuzzImpersonationHeaders(f *testing.F) {
	f.Add("ann", "devs", "7", "Impersonate-Extra-Example.com%2fteam", "blue")
	f.Add("", "", "", "Impersonate-Extra-%zz", "\x00")
	f.Fuzz(func(t *testing.T, user, group, uid, extra, value string) {
		r := httptest.NewRequest("GET", "/", nil)
		h := r.Header
		h.Set("Impersonate-User", user)
		h.Set("Impersonate-Group", group)
		h.Set("Impersonate-Uid", uid)
		h[extra] = []string{value}
		wanted, err := wantedUser(h)
		if (wanted == nil) == (err == nil) && user != "" {
			t.Errorf("%v %v", wanted, err)
		}
		if err != nil {
			return
		}
		if wanted != nil && wanted.Name != user {
			t.Errorf("%q became %q", user, wanted.Name)
		}
		for header := range h {
			if wanted != nil && strings.HasPrefix(header, "Impersonate-Extra-") {
				t.Errorf("%q travels further", header)
			}
		}
		if wanted != nil {
			_ = checkExtra(wanted.Extra)
			nodeName(wanted.Name)
			accountName(wanted.Name)
		}
	})
}
