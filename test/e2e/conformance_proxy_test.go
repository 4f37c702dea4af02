//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
)

// api is a client of the API that does not follow redirects.
func (s *space) api() *http.Client {
	s.Helper()
	client, err := rest.HTTPClientFor(s.config)
	s.ok(err)
	plain := *client
	plain.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &plain
}

// fetchAPI is what the API server answers at an address of its own.
func fetchAPI(s *space, url string) (string, error) {
	answer, err := s.api().Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}

// proxied starts a pod and a Service of the same name that answer on several
// ports.
func (s *space) proxied() {
	s.Helper()
	t := template("proxied", "")
	serving(&t)
	t.Spec.Containers[0].Command = []string{"testserver", "http:80", "http:160", "http:162", "https:443", "https:460"}
	t.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80}, {Name: "dest", ContainerPort: 160}, {Name: "tlsdest", ContainerPort: 460}}
	s.startPod("proxied", t)
	s.service("proxied", func(v *corev1.Service) {
		v.Spec.Ports = []corev1.ServicePort{
			{Name: "first", Port: 80, TargetPort: intstr.FromString("dest")},
			{Name: "second", Port: 81, TargetPort: intstr.FromInt32(162)},
			{Name: "tls", Port: 443, TargetPort: intstr.FromString("tlsdest")},
		}
	})
	s.endpoints("proxied", map[string][]int32{"proxied": {160, 162, 460}})
}

// through demands what a request through the API is answered.
func (s *space) through(method, path string, code int, want string) {
	s.Helper()
	path = "/api/v1/namespaces/" + s.ns + "/" + path
	s.eventually(method+" "+path, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(s.config.Host, "/")+path, nil)
		if err != nil {
			return err
		}
		answer, err := s.api().Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err == nil && (answer.StatusCode != code || want != "" && string(body) != want) {
			err = fmt.Errorf("%s %q, not %d %q", answer.Status, body, code, want)
		}
		return err
	})
}

func (s *space) testProxyPath() {
	s.proxied()
	for _, method := range []string{"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"} {
		for path, port := range map[string]string{"pods/proxied": "80", "services/proxied:first": "160"} {
			want := fmt.Sprintf("http %s %s /some/path/with/%s?q=1", port, method, method)
			if method == http.MethodHead {
				want = ""
			}
			s.through(method, path+"/proxy/some/path/with/"+method+"?q=1", http.StatusOK, want)
		}
	}
}

func (s *space) testProxyRoot() {
	s.proxied()
	for path, port := range map[string]string{"pods/proxied": "80", "services/proxied:first": "160"} {
		for _, method := range []string{"DELETE", "OPTIONS", "PATCH", "POST", "PUT"} {
			s.through(method, path+"/proxy?method="+method, http.StatusOK, fmt.Sprintf("http %s %s /?method=%s", port, method, method))
		}
		// Relative links would lead elsewhere without the last slash.
		for _, method := range []string{"GET", "HEAD"} {
			s.through(method, path+"/proxy?method="+method, http.StatusMovedPermanently, "")
		}
	}
}

func (s *space) testProxyPorts() {
	s.proxied()
	for path, want := range map[string]string{
		"services/proxied:first/proxy/":       "http 160 GET /",
		"services/http:proxied:first/proxy/":  "http 160 GET /",
		"services/proxied:second/proxy/":      "http 162 GET /",
		"services/http:proxied:second/proxy/": "http 162 GET /",
		"services/proxied:81/proxy/":          "http 162 GET /",
		"services/https:proxied:tls/proxy/":   "https 460 GET /",
		"pods/proxied/proxy/":                 "http 80 GET /",
		"pods/proxied:160/proxy/":             "http 160 GET /",
		"pods/http:proxied:162/proxy/":        "http 162 GET /",
		"pods/https:proxied:443/proxy/":       "https 443 GET /",
		"pods/https:proxied:460/proxy/":       "https 460 GET /",
		"pods/proxied/proxy/link":             `<a href="/api/v1/namespaces/` + s.ns + `/pods/proxied/proxy/target">link</a>`,
		"pods/https:proxied:443/proxy/link":   `<a href="/api/v1/namespaces/` + s.ns + `/pods/https:proxied:443/proxy/target">link</a>`,
	} {
		s.through(http.MethodGet, path, http.StatusOK, want)
	}
}
