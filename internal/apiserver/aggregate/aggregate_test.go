package aggregate_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
)

const deadline = 20 * time.Second

// extension is an API server for wardle.example.com/v1 that trusts the front
// proxy alone.
type extension struct {
	*httptest.Server
	bundle []byte
	// description is what its OpenAPI says of its kind, unchanged how often
	// somebody was told that this is the same as before.
	description atomic.Value
	unchanged   atomic.Int64
}

func newExtension(t *testing.T, c *testcluster.Cluster) *extension {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "wardle"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"wardle.default.svc"}, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	e := &extension{bundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
	e.description.Store("first")
	mux := http.NewServeMux()
	mux.HandleFunc("/apis/wardle.example.com/v1", func(w http.ResponseWriter, r *http.Request) {
		answer(w, metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "wardle.example.com/v1",
			APIResources: []metav1.APIResource{
				{Name: "flunders", SingularName: "flunder", Kind: "Flunder", Namespaced: true, ShortNames: []string{"fl"}, Verbs: metav1.Verbs{"get", "list"}},
				{Name: "flunders/status", Kind: "Flunder", Namespaced: true, Verbs: metav1.Verbs{"get"}},
			},
		})
	})
	mux.HandleFunc("/apis/wardle.example.com/v1/flunders", func(w http.ResponseWriter, r *http.Request) {
		answer(w, map[string]any{"kind": "FlunderList", "apiVersion": "wardle.example.com/v1", "seen": map[string]any{
			"user": r.Header.Get("X-Remote-User"), "groups": r.Header["X-Remote-Group"], "scopes": r.Header["X-Remote-Extra-Scopes"],
			"authorization": r.Header.Get("Authorization"), "query": r.URL.RawQuery,
		}})
	})
	mux.HandleFunc("/apis/wardle.example.com/v1/echo", echo)
	mux.HandleFunc("/openapi/v3/apis/wardle.example.com/v1", func(w http.ResponseWriter, r *http.Request) {
		description := e.description.Load().(string)
		w.Header().Set("Etag", strconv.Quote(description))
		if r.Header.Get("If-None-Match") == strconv.Quote(description) {
			e.unchanged.Add(1)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprintf(w, `{"openapi":"3.0.0","info":{"title":"w","version":"1"},"paths":{},"components":{"schemas":{"com.example.wardle.v1.Flunder":{"type":"object","description":%q,"x-kubernetes-group-version-kind":[{"group":"wardle.example.com","kind":"Flunder","version":"v1"}]}}}}`, description)
	})
	mux.HandleFunc("/openapi/v2", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"swagger":"2.0","info":{"title":"w","version":"1"},"paths":{"/apis/wardle.example.com/v1/flunders":{"get":{"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/com.example.wardle.v1.Flunder"}}}}}},"definitions":{"io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta":{"type":"object","description":"of its own"},"com.example.wardle.v1.Flunder":{"type":"object","properties":{"metadata":{"$ref":"#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"}},"x-kubernetes-group-version-kind":[{"group":"wardle.example.com","kind":"Flunder","version":"v1"}]}}}`)
	})
	e.Server = httptest.NewUnstartedServer(mux)
	e.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: c.PKI.FrontProxyCA.Pool(),
	}
	e.Config.ErrorLog = log.New(io.Discard, "", 0)
	e.StartTLS()
	t.Cleanup(e.Close)
	return e
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// echo upgrades the connection and sends back what it gets.
func echo(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	line, err := rw.ReadString('\n')
	if err == nil {
		fmt.Fprintf(conn, "%s says %s", r.Header.Get("X-Remote-User"), line)
	}
}

func (e *extension) port() int32 {
	_, port, _ := net.SplitHostPort(e.Listener.Addr().String())
	n, _ := strconv.Atoi(port)
	return int32(n)
}

func (e *extension) apiService() *apiregistrationv1.APIService {
	port := e.port()
	s := &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1.wardle.example.com"}}
	s.Spec = apiregistrationv1.APIServiceSpec{
		Group: "wardle.example.com", Version: "v1", GroupPriorityMinimum: 2000, VersionPriority: 200, CABundle: e.bundle,
		Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "wardle", Port: &port},
	}
	return s
}

// await waits until the APIService's condition has the reason.
func await(t *testing.T, c *testcluster.Cluster, name, reason string) apiregistrationv1.APIServiceCondition {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	w, err := c.Client.Watch(ctx, &apiregistrationv1.APIServiceList{}, client.MatchingFields{"metadata.name": name})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	last := apiregistrationv1.APIServiceCondition{}
	for ev := range w.ResultChan() {
		s, ok := ev.Object.(*apiregistrationv1.APIService)
		if !ok {
			continue
		}
		for _, condition := range s.Status.Conditions {
			if last = condition; condition.Type == apiregistrationv1.Available && condition.Reason == reason {
				return condition
			}
		}
	}
	t.Fatalf("%s never became %s; it is %+v", name, reason, last)
	return last
}

func get(t *testing.T, c *testcluster.Cluster, path string, header http.Header) (int, []byte, http.Header) {
	t.Helper()
	h, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.Config.Host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = header
	if header == nil {
		r.Header = http.Header{}
	}
	resp, err := h.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body, resp.Header
}

func TestExtensionServer(t *testing.T) {
	c := testcluster.Start(t)
	ctx := t.Context()
	e := newExtension(t, c)
	if err := c.Client.Create(ctx, e.apiService()); err != nil {
		t.Fatal(err)
	}
	if got := await(t, c, "v1.wardle.example.com", "ServiceNotFound"); got.Message != `service/wardle in "default" is not present` || got.Status != apiregistrationv1.ConditionFalse {
		t.Errorf("without a Service: %+v", got)
	}
	if code, body, _ := get(t, c, "/apis/wardle.example.com/v1/flunders", nil); code != http.StatusServiceUnavailable || strings.TrimSpace(string(body)) != "service unavailable" {
		t.Errorf("while unavailable: %d %s", code, body)
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "wardle"}}
	service.Spec.Ports = []corev1.ServicePort{{Name: "https", Port: 1}}
	if err := c.Client.Create(ctx, service); err != nil {
		t.Fatal(err)
	}
	if got := await(t, c, "v1.wardle.example.com", "ServicePortError"); got.Message != fmt.Sprintf(`service/wardle in "default" is not listening on port %d`, e.port()) {
		t.Errorf("another port: %+v", got)
	}
	service.Spec.Ports[0].Port = e.port()
	if err := c.Client.Update(ctx, service); err != nil {
		t.Fatal(err)
	}
	if got := await(t, c, "v1.wardle.example.com", "EndpointsNotFound"); got.Message != `cannot find endpointslices for service/wardle in "default"` {
		t.Errorf("no endpoints: %+v", got)
	}
	if err := c.Client.Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "wardle", Labels: map[string]string{discoveryv1.LabelServiceName: "wardle"}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}); err != nil {
		t.Fatal(err)
	}
	if got := await(t, c, "v1.wardle.example.com", "MissingEndpoints"); got.Message != `endpointslices for service/wardle in "default" have no addresses with port name "https"` {
		t.Errorf("no addresses: %+v", got)
	}
	service.Spec.Type, service.Spec.ExternalName, service.Spec.ClusterIP, service.Spec.ClusterIPs = corev1.ServiceTypeExternalName, "localhost", "", nil
	if err := c.Client.Update(ctx, service); err != nil {
		t.Fatal(err)
	}
	if got := await(t, c, "v1.wardle.example.com", "Passed"); got.Message != "all checks passed" || got.Status != apiregistrationv1.ConditionTrue {
		t.Errorf("all there: %+v", got)
	}

	code, body, _ := get(t, c, "/apis/wardle.example.com/v1/flunders?limit=5", http.Header{"X-Remote-User": {"intruder"}, "Impersonate-User": {"jane"}, "Impersonate-Group": {"cleaners"}, "Impersonate-Extra-Scopes": {"some"}})
	want := `"seen":{"authorization":"","groups":["cleaners","system:authenticated"],"query":"limit=5","scopes":["some"],"user":"jane"}`
	if code != http.StatusForbidden {
		t.Errorf("jane may not do this: %d %s", code, body)
	}
	code, body, _ = get(t, c, "/apis/wardle.example.com/v1/flunders?limit=5", http.Header{"X-Remote-User": {"intruder"}, "Impersonate-User": {"jane"}, "Impersonate-Group": {"system:masters"}, "Impersonate-Extra-Scopes": {"some"}})
	want = strings.Replace(want, "cleaners", "system:masters", 1)
	if code != http.StatusOK || !strings.Contains(string(body), want) {
		t.Errorf("proxied: %d %s, want %s", code, body, want)
	}

	d, err := discovery.NewDiscoveryClientForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	groups, resources, failed, err := d.GroupsAndMaybeResources()
	if err != nil || len(failed) > 0 {
		t.Fatal(err, failed)
	}
	if i := slices.IndexFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == "wardle.example.com" }); i < 0 || groups.Groups[i].PreferredVersion.Version != "v1" {
		t.Errorf("the group is not in discovery: %v", groups.Groups)
	}
	for gv, list := range resources {
		if gv.Group == "wardle.example.com" && (len(list.APIResources) != 2 || list.APIResources[0].ShortNames[0] != "fl") {
			t.Errorf("discovery says %+v", list)
		}
	}
	_, _, header := get(t, c, "/apis", http.Header{"Accept": {"application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}})
	if code, _, _ := get(t, c, "/apis", http.Header{"Accept": {"application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}, "If-None-Match": {header.Get("ETag")}}); code != http.StatusNotModified {
		t.Errorf("discovery with its own tag: %d", code)
	}
	if header.Get("Cache-Control") != "public" || header.Get("Vary") != "Accept" {
		t.Errorf("discovery comes with %v", header)
	}
	if _, body, _ := get(t, c, "/openapi/v3/apis/wardle.example.com/v1", nil); !strings.Contains(string(body), "com.example.wardle.v1.Flunder") {
		t.Errorf("OpenAPI v3: %s", body)
	}
	if _, body, _ := get(t, c, "/openapi/v3", nil); !strings.Contains(string(body), `"apis/wardle.example.com/v1"`) {
		t.Errorf("the index of OpenAPI v3: %s", body)
	}
	if _, body, _ := get(t, c, "/openapi/v2", nil); !strings.Contains(string(body), "com.example.wardle.v1.Flunder") || !strings.Contains(string(body), "io.k8s.api.core.v1.Pod") {
		t.Errorf("OpenAPI v2 has no Flunder or no Pod")
	}
	if _, body, _ := get(t, c, "/openapi/v2", nil); !strings.Contains(string(body), `"com.example.wardle.v1.Flunder":{"type":"object","properties":{"metadata":{"$ref":"#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta_v2"}}`) ||
		!strings.Contains(string(body), `"io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta_v2":{"description":"of its own","type":"object"}`) {
		t.Errorf("OpenAPI v2 mixes up definitions of the same name")
	}
	index := func() string {
		_, body, _ := get(t, c, "/openapi/v3", nil)
		return string(body)
	}
	before := index()
	eventually(t, func() error {
		if index(); e.unchanged.Load() == 0 {
			return errors.New("the server's description is not looked at again")
		}
		return nil
	})
	if after := index(); after != before {
		t.Errorf("the index of OpenAPI v3 changed to %s though nothing did", after)
	}
	e.description.Store("second")
	eventually(t, func() error {
		if index() == before {
			return errors.New("the index of OpenAPI v3 is still the same")
		}
		return nil
	})
	if _, body, _ := get(t, c, "/openapi/v3/apis/wardle.example.com/v1", nil); !strings.Contains(string(body), `"second"`) {
		t.Errorf("after a change: %s", body)
	}
	upgrade(t, c)

	e.Close()
	if err := c.Client.Get(ctx, client.ObjectKeyFromObject(service), service); err != nil {
		t.Fatal(err)
	}
	service.Labels = map[string]string{"look": "again"}
	if err := c.Client.Update(ctx, service); err != nil {
		t.Fatal(err)
	}
	if got := await(t, c, "v1.wardle.example.com", "FailedDiscoveryCheck"); !strings.HasPrefix(got.Message, "failing or missing response from https://wardle.default.svc:") {
		t.Errorf("after the server is gone: %+v", got)
	}
	if err := c.Client.Delete(ctx, e.apiService()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if code, body, _ := get(t, c, "/apis/wardle.example.com/v1", nil); code != http.StatusNotFound {
			return fmt.Errorf("after the APIService is gone: %d %s", code, body)
		}
		return nil
	})
}

// upgrade talks over a connection that is handed through.
func upgrade(t *testing.T, c *testcluster.Cluster) {
	t.Helper()
	conf, err := rest.TLSConfigFor(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	conf.NextProtos = []string{"http/1.1"}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(c.Config.Host, "https://"), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /apis/wardle.example.com/v1/echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", resp, err)
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := r.ReadString('\n'); err != nil || !strings.HasSuffix(line, " says hello\n") || strings.HasPrefix(line, " ") {
		t.Errorf("through the upgraded connection: %q, %v", line, err)
	}
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

// TestLocalServices compares with the APIServices of v1.36: those of the
// server's own types, and those of custom resources, which come and go.
func TestLocalServices(t *testing.T) {
	c := testcluster.Start(t)
	get := func(name string) (*apiregistrationv1.APIService, error) {
		s := &apiregistrationv1.APIService{}
		return s, c.Client.Get(t.Context(), client.ObjectKey{Name: name}, s)
	}
	for name, want := range map[string][2]int32{
		"v1.": {18000, 1}, "v1.apps": {17800, 15}, "v2.autoscaling": {17500, 30}, "v1.autoscaling": {17500, 15},
		"v1.apiextensions.k8s.io": {16700, 15}, "v1.flowcontrol.apiserver.k8s.io": {16100, 21}, "v1.resource.k8s.io": {16200, 20},
	} {
		eventually(t, func() error {
			s, err := get(name)
			if err != nil {
				return err
			}
			if got := [2]int32{s.Spec.GroupPriorityMinimum, s.Spec.VersionPriority}; got != want || s.Labels["kube-aggregator.kubernetes.io/automanaged"] != "onstart" || s.Status.Conditions[0].Reason != "Local" {
				t.Errorf("%s has priorities %v, labels %v, status %v", name, got, s.Labels, s.Status)
			}
			return nil
		})
	}
	crd := crdOf("boats.example.com")
	if err := c.Client.Create(t.Context(), crd); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		s, err := get("v1.example.com")
		if err == nil && (s.Spec.GroupPriorityMinimum != 1000 || s.Spec.VersionPriority != 100 || s.Labels["kube-aggregator.kubernetes.io/automanaged"] != "true") {
			t.Errorf("that of a custom resource is %+v", s)
		}
		return err
	})
	if err := c.Client.Delete(t.Context(), crd); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if _, err := get("v1.example.com"); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it outlives the custom resource: %v", err)
		}
		return nil
	})
}

func crdOf(name string) *apiextensionsv1.CustomResourceDefinition {
	d := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: name}}
	d.Spec.Group, d.Spec.Scope = "example.com", apiextensionsv1.NamespaceScoped
	d.Spec.Names = apiextensionsv1.CustomResourceDefinitionNames{Plural: "boats", Kind: "Boat"}
	d.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
		OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"},
	}}}
	return d
}
