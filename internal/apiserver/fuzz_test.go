package apiserver

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FuzzRequest: every URL is understood in one way, or refused; what is asked
// for lies on the path.
func FuzzRequest(f *testing.F) {
	for _, u := range []string{
		"/api/v1/namespaces/default/pods/p/proxy/a//b/", "/apis/apps/v1/deployments?watch=1&labelSelector=a%3Db", "/api/v1/watch/namespaces/x",
		"/api/v1/namespaces/x/finalize", "/api//", "/apis/a/b/c/d/e/f/g", "//api/v1/pods", "/api/v1/pods?fieldSelector=metadata.name=x,,=&limit=-1&timeoutSeconds=99999999999", "/", "/api/v1/namespaces/",
	} {
		f.Add("GET", u)
	}
	f.Fuzz(func(t *testing.T, method, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Path == "" || u.Path[0] != '/' {
			return
		}
		r := &http.Request{Method: method, URL: u, Header: http.Header{}}
		info := parseRequest(r)
		if info.IsResource && (info.GroupVersion.Version == "" && !strings.Contains(u.Path, "//")) {
			t.Errorf("%s: no version: %+v", target, info)
		}
		for _, part := range []string{info.Namespace, info.Resource, info.Subresource} {
			if !strings.Contains(u.Path, part) || strings.Contains(part, "/") {
				t.Errorf("%s: %q is not a part of it", target, part)
			}
		}
		if o, timeout, err := listOptions(r); err == nil && (o.Labels == nil || o.Fields == nil || (timeout < 0 && !strings.Contains(u.RawQuery, "-"))) {
			t.Errorf("%s: %+v %s", target, o, timeout)
		}
	})
}

// FuzzBody: a body becomes an object or an error of the API.
func FuzzBody(f *testing.F) {
	media := []string{mediaJSON, mediaYAML, mediaProtobuf, mediaCBOR}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	proto, err := encodeObject(pod, corev1.SchemeGroupVersion.WithKind("Pod"), mediaProtobuf)
	if err != nil {
		f.Fatal(err)
	}
	cbor, err := encodeObject(pod, corev1.SchemeGroupVersion.WithKind("Pod"), mediaCBOR)
	if err != nil {
		f.Fatal(err)
	}
	for _, body := range []string{
		string(proto), string(cbor), "\xd9\xd9\xf7\xa0", "\xa1\x44spec\xbf", "\x9b\xff\xff\xff\xff\xff\xff\xff\xff", strings.Repeat("\x81", 1000), "\xa1\xf6\xf6", "\xa1\x44kind\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00",
		`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p"},"spec":{"a":1,"a":2}}`, "kind: Pod\nspec: {containers: [{name: c}]}\nspec: 1\n", "k8s\x00", "k8s\x00\x0a\xff\xff\xff\xff\x0f",
		"null", "[]", "{", "&a [*a]", "a: &a [*a, *a]\n", `{"metadata":{"creationTimestamp":"x"}}`, `{"spec":{"activeDeadlineSeconds":1e99}}`, strings.Repeat("[", 100_000),
	} {
		for i := range media {
			f.Add(i, []byte(body))
		}
	}
	gvk := corev1.SchemeGroupVersion.WithKind("Pod")
	f.Fuzz(func(t *testing.T, kind int, body []byte) {
		if kind < 0 || kind >= len(media) {
			return
		}
		for _, strictness := range []string{"Strict", "Warn", "Ignore"} {
			obj := &corev1.Pod{}
			if err := (decoder{gvk: gvk, fieldValidation: strictness}).decode(t.Context(), media[kind], body, obj); err != nil {
				if s := statusOf(err); s.Code != http.StatusBadRequest {
					t.Errorf("%s %q: %v", media[kind], body, err)
				}
				continue
			}
			for _, m := range media {
				if _, err := encodeObject(obj, gvk, m); err != nil {
					t.Errorf("%s %q: what was read cannot be written as %s: %v", media[kind], body, m, err)
				}
			}
		}
	})
}

// FuzzAccept: negotiation chooses something that is offered.
func FuzzAccept(f *testing.F) {
	for _, a := range []string{"", "*/*", "application/json;as=Table;v=v1;g=meta.k8s.io,application/yaml;q=0.5", "text/html", ";;;", "application/json;q=x", "application/vnd.kubernetes.protobuf;stream=watch"} {
		f.Add(a)
	}
	forms := func(m *mediaType) bool {
		return m.As == "" || m.As == "Table" && m.Media != mediaProtobuf
	}
	f.Fuzz(func(t *testing.T, accept string) {
		r := httptest.NewRequest(http.MethodGet, "/api/v1/pods", nil)
		r.Header["Accept"] = []string{accept}
		m, err := negotiate(r, forms)
		if err != nil {
			if statusOf(err).Code != http.StatusNotAcceptable {
				t.Errorf("%q: %v", accept, err)
			}
			return
		}
		if m.Media == "" || !forms(m) {
			t.Errorf("%q: %+v", accept, m)
		}
	})
}
