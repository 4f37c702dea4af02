package crd_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// converter is a conversion webhook: hostPort of v1 is host and port of v2.
type converter struct {
	server *httptest.Server
	bundle []byte
	calls  atomic.Int64
	// refuse makes it fail with the text.
	refuse atomic.Pointer[string]
}

// newConverter starts one with a certificate for the names.
func newConverter(t *testing.T, names ...string) *converter {
	t.Helper()
	c := &converter{}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "converter"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	c.bundle = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	c.server = httptest.NewUnstartedServer(c)
	c.server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	c.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	c.server.StartTLS()
	t.Cleanup(c.server.Close)
	return c
}

func (c *converter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.calls.Add(1)
	review := &apiextensionsv1.ConversionReview{}
	if err := json.NewDecoder(r.Body).Decode(review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	review.Response = &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	if text := c.refuse.Load(); text != nil {
		review.Response.Result = metav1.Status{Status: metav1.StatusFailure, Message: *text}
	}
	for _, raw := range review.Request.Objects {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(raw.Raw); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if strings.HasSuffix(review.Request.DesiredAPIVersion, "/v2") {
			host, port, _ := strings.Cut(u.Object["hostPort"].(string), ":")
			u.Object["host"], u.Object["port"] = host, port
			delete(u.Object, "hostPort")
		} else {
			u.Object["hostPort"] = u.Object["host"].(string) + ":" + u.Object["port"].(string)
			delete(u.Object, "host")
			delete(u.Object, "port")
		}
		u.SetAPIVersion(review.Request.DesiredAPIVersion)
		review.Response.ConvertedObjects = append(review.Response.ConvertedObjects, runtime.RawExtension{Object: u})
	}
	review.Request = nil
	_ = json.NewEncoder(w).Encode(review)
}

const endpoints = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat}
  conversion: {strategy: Webhook, webhook: {conversionReviewVersions: [v1beta9, v1], clientConfig: {CLIENT, caBundle: BUNDLE}}}
  versions:
  - name: v1
    served: true
    storage: true
    selectableFields: [{jsonPath: .hostPort}]
    schema: {openAPIV3Schema: {type: object, required: [hostPort], properties: {hostPort: {type: string}}}}
  - name: v2
    served: true
    storage: false
    selectableFields: [{jsonPath: .host}, {jsonPath: .port}]
    additionalPrinterColumns: [{name: Host, type: string, jsonPath: .host}]
    schema: {openAPIV3Schema: {type: object, required: [host, port], properties: {host: {type: string}, port: {type: string}}}}
`

func (c *converter) definition(client string) string {
	return strings.NewReplacer("CLIENT", client, "BUNDLE", base64.StdEncoding.EncodeToString(c.bundle)).Replace(endpoints)
}

func TestWebhookConversion(t *testing.T) {
	f := start(t)
	ctx := t.Context()
	hook := newConverter(t)
	f.define(hook.definition("url: " + hook.server.URL + "/convert"))
	v1, v2 := f.boats("v1"), f.boats("v2")
	one := f.create(v1, `{apiVersion: example.com/v1, kind: Boat, metadata: {name: one}, hostPort: "a:1"}`)
	u, err := v2.Get(ctx, "one", metav1.GetOptions{})
	if err != nil || u.Object["host"] != "a" || u.Object["port"] != "1" || u.GetUID() != one.GetUID() || u.GetAPIVersion() != "example.com/v2" {
		t.Fatalf("read in v2: %v, %v", u, err)
	}
	two := f.create(v2, `{apiVersion: example.com/v2, kind: Boat, metadata: {name: two}, host: b, port: "1"}`)
	if two.Object["host"] != "b" || two.Object["hostPort"] != nil {
		t.Errorf("created in v2: %v", two.Object)
	}
	if u, err = v1.Get(ctx, "two", metav1.GetOptions{}); err != nil || u.Object["hostPort"] != "b:1" {
		t.Errorf("read in v1: %v, %v", u, err)
	}
	// A write is checked by the schema of its own version.
	_, err = v2.Create(ctx, parse(t, `{apiVersion: example.com/v2, kind: Boat, metadata: {name: bad}, host: b}`), metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "port: Required value") {
		t.Errorf("an invalid object in v2: %v", err)
	}
	if u, err = v2.Patch(ctx, "one", types.MergePatchType, []byte(`{"port":"2"}`), metav1.PatchOptions{}); err != nil || u.Object["port"] != "2" {
		t.Errorf("patched in v2: %v, %v", u, err)
	}
	force := true
	if u, err = v2.Patch(ctx, "one", types.ApplyPatchType, []byte(`{"apiVersion":"example.com/v2","kind":"Boat","metadata":{"name":"one"},"port":"3","host":"a"}`), metav1.PatchOptions{FieldManager: "m", Force: &force}); err != nil || u.Object["port"] != "3" {
		t.Errorf("applied in v2: %v, %v", u, err)
	}

	// A list costs one call for all that is not converted yet.
	for i := range 5 {
		f.create(v1, fmt.Sprintf(`{apiVersion: example.com/v1, kind: Boat, metadata: {name: n%d}, hostPort: "n:%d"}`, i, i))
	}
	before := hook.calls.Load()
	if list, err := v2.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 7 || list.Items[0].GetAPIVersion() != "example.com/v2" {
		t.Errorf("listed in v2: %v, %v", list, err)
	}
	if n := hook.calls.Load() - before; n != 1 {
		t.Errorf("the list called the webhook %d times", n)
	}

	// Fields select in the version of the request, lists, watches and all.
	if list, err := v2.List(ctx, metav1.ListOptions{FieldSelector: "host=b,port=1"}); err != nil || len(list.Items) != 1 || list.Items[0].GetName() != "two" {
		t.Errorf("selected in v2: %v, %v", list, err)
	}
	w, err := v2.Watch(ctx, metav1.ListOptions{FieldSelector: "port=9", ResourceVersion: u.GetResourceVersion()})
	if err != nil {
		t.Fatal(err)
	}
	for _, hostPort := range []string{"a:8", "a:9", "a:10"} {
		if _, err := v1.Patch(ctx, "one", types.MergePatchType, []byte(`{"hostPort":"`+hostPort+`"}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []watch.EventType{watch.Added, watch.Deleted} {
		if ev := <-w.ResultChan(); ev.Type != want || ev.Object.(*unstructured.Unstructured).Object["port"] != "9" {
			t.Errorf("watched in v2: %v %v, want %v", ev.Type, ev.Object, want)
		}
	}

	w.Stop()
	f.inProcess(t, 7)
	f.asMetadata(t, 7)

	text := "no conversion today"
	hook.refuse.Store(&text)
	f.create(v1, `{apiVersion: example.com/v1, kind: Boat, metadata: {name: stuck}, hostPort: "s:1"}`)
	_, err = v2.Get(ctx, "stuck", metav1.GetOptions{})
	if err == nil || err.Error() != "conversion webhook for example.com/v1, Kind=Boat failed: no conversion today" {
		t.Errorf("a refused conversion: %v", err)
	}
	hook.server.Close()
	_, err = v2.Get(ctx, "stuck", metav1.GetOptions{})
	if err == nil || !strings.HasPrefix(err.Error(), `conversion webhook for example.com/v1, Kind=Boat failed: Post "https://127.0.0.1:`) || !strings.Contains(err.Error(), "/convert?timeout=30s") {
		t.Errorf("a webhook that is gone: %v", err)
	}
	// Deleting takes no conversion.
	if err := f.dynamic.Resource(crds).Delete(ctx, "boats.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.eventually(func() error {
		_, err := f.dynamic.Resource(crds).Get(ctx, "boats.example.com", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the definition is still there: %v", err)
		}
		return nil
	})
}

// inProcess reads as the server's own controllers do.
func (f *fixture) inProcess(t *testing.T, want int) {
	t.Helper()
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion("example.com/v2")
	list.SetKind("BoatList")
	if err := f.Client.List(t.Context(), list, client.InNamespace("default")); err != nil || len(list.Items) != want || list.Items[0].Object["host"] == nil {
		t.Errorf("in process: %v, %v", list.Items, err)
	}
}

func (f *fixture) asMetadata(t *testing.T, want int) {
	t.Helper()
	c, err := metadata.NewForConfig(f.Config)
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.Resource(boatsGVR("v2")).Namespace("default").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != want || list.Items[0].Name == "" {
		t.Errorf("as metadata: %v, %v", list, err)
	}
}

// TestStorageVersion moves the storage version: old and new objects are read
// together, and a write without change migrates.
func TestStorageVersion(t *testing.T) {
	f := start(t)
	ctx := t.Context()
	// The webhook is behind a Service, whose endpoint the server goes to.
	hook := newConverter(t, "hook.default.svc")
	_, port, _ := net.SplitHostPort(hook.server.Listener.Addr().String())
	number, _ := strconv.Atoi(port)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "hook"}}
	service.Spec.Ports = []corev1.ServicePort{{Name: "https", Port: int32(number)}}
	if err := f.Client.Create(ctx, service); err != nil {
		t.Fatal(err)
	}
	f.define(hook.definition("service: {namespace: default, name: hook, path: /convert, port: " + port + "}"))
	v1, v2 := f.boats("v1"), f.boats("v2")
	f.create(v1, `{apiVersion: example.com/v1, kind: Boat, metadata: {name: old}, hostPort: "a:1"}`)
	if _, err := v2.Get(ctx, "old", metav1.GetOptions{}); err == nil || !strings.HasSuffix(err.Error(), `no endpoints available for service "hook"`) {
		t.Errorf("a Service without endpoints: %v", err)
	}
	service.Spec.Type, service.Spec.ExternalName, service.Spec.ClusterIP, service.Spec.ClusterIPs = corev1.ServiceTypeExternalName, "localhost", "", nil
	if err := f.Client.Update(ctx, service); err != nil {
		t.Fatal(err)
	}
	f.change("boats.example.com", func(d *unstructured.Unstructured) {
		versions, _, _ := unstructured.NestedSlice(d.Object, "spec", "versions")
		versions[0].(map[string]any)["storage"], versions[1].(map[string]any)["storage"] = false, true
		_ = unstructured.SetNestedSlice(d.Object, versions, "spec", "versions")
	})
	d, err := f.dynamic.Resource(crds).Get(ctx, "boats.example.com", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, _, _ := unstructured.NestedStringSlice(d.Object, "status", "storedVersions"); strings.Join(got, " ") != "v1 v2" {
		t.Errorf("stored versions are %v", got)
	}
	stored := func(name string) string {
		obj, err := f.Verbs.Lookup(boatsGVR("").GroupResource()).Collection.Get("/registry/example.com/boats/default/" + name).Object()
		if err != nil {
			t.Fatal(err)
		}
		return obj.GetObjectKind().GroupVersionKind().GroupVersion().String()
	}
	n := 0
	f.eventually(func() error {
		n++
		name := fmt.Sprintf("new%d", n)
		f.create(v2, fmt.Sprintf(`{apiVersion: example.com/v2, kind: Boat, metadata: {name: %s}, host: b, port: "1"}`, name))
		if got := stored(name); got != "example.com/v2" {
			return fmt.Errorf("stored as %s", got)
		}
		return nil
	})
	for version, c := range map[string]interface {
		List(context.Context, metav1.ListOptions) (*unstructured.UnstructuredList, error)
	}{"v1": v1, "v2": v2} {
		list, err := c.List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != n+1 {
			t.Fatalf("mixed list in %s: %v, %v", version, list, err)
		}
		for _, u := range list.Items {
			if u.GetAPIVersion() != "example.com/"+version {
				t.Errorf("a list in %s holds %v", version, u.Object)
			}
		}
	}
	if got := stored("old"); got != "example.com/v1" {
		t.Errorf("read, the old object became %s", got)
	}
	u, err := v2.Get(ctx, "old", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v2.Update(ctx, u, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := stored("old"); got != "example.com/v2" {
		t.Errorf("written back, the old object is %s", got)
	}
}

func TestNoneConversion(t *testing.T) {
	f := start(t)
	ctx := t.Context()
	f.define(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {a: {type: string}, b: {type: string}}}}}
  - {name: v2, served: true, storage: false, schema: {openAPIV3Schema: {type: object, required: [a], properties: {a: {type: string, default: x}}}}}
  - {name: v3, served: false, storage: false, schema: {openAPIV3Schema: {type: object}}}
`)
	f.create(f.boats("v1"), `{apiVersion: example.com/v1, kind: Boat, metadata: {name: x}, a: "1", b: "2"}`)
	u, err := f.boats("v2").Get(ctx, "x", metav1.GetOptions{})
	if err != nil || u.GetAPIVersion() != "example.com/v2" || u.Object["a"] != "1" || u.Object["b"] != nil {
		t.Errorf("read in v2: %v, %v", u, err)
	}
	if _, err := f.boats("v3").Get(ctx, "x", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a version that is not served: %v", err)
	}
}
