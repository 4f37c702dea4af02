// Package conformance demands of a whole server (API, controllers, and a
// stand-in for the kubelets) what upstream's conformance suite demands of a
// cluster. Each test bears the name of the suite's entry.
package conformance

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/csr"
	"skiff/internal/controllers/nodelifecycle"
	"skiff/internal/identity"
)

// patience bounds every wait; it is only ever reached by a failing test.
const patience = 60 * time.Second

// entries are tests, named as the suite's entries after the words that a group
// of them has in common.
type entries map[string]func(*server)

// groups are all tests of this package.
var groups = map[string]entries{
	"[sig-api-machinery] AdmissionWebhook":                              webhooks,
	"[sig-api-machinery] Aggregator":                                    aggregator,
	"[sig-api-machinery] MutatingAdmissionPolicy":                       mutatingPolicies,
	"[sig-api-machinery] ResourceQuota":                                 quotas,
	"[sig-api-machinery] ValidatingAdmissionPolicy":                     validatingPolicies,
	"[sig-auth] Certificates API":                                       certificates,
	"[sig-auth] ServiceAccounts":                                        accounts,
	"[sig-auth] SubjectReview":                                          subjectReviews,
	"[sig-instrumentation] Events":                                      coreEvents,
	"[sig-instrumentation] Events API":                                  eventsAPI,
	"[sig-api-machinery] API priority and fairness":                     flowControl,
	"[sig-api-machinery] AggregatedDiscovery":                           aggregatedDiscovery,
	"[sig-api-machinery] CustomResourceConversionWebhook":               conversion,
	"[sig-api-machinery] CustomResourceDefinition Watch":                crdWatch,
	"[sig-api-machinery] CustomResourceDefinition resources":            definitions,
	"[sig-api-machinery] CustomResourceFieldSelectors":                  selectableFields,
	"[sig-api-machinery] CustomResourcePublishOpenAPI":                  published,
	"[sig-api-machinery] Discovery":                                     plainDiscovery,
	"[sig-api-machinery] FieldValidation":                               fieldValidation,
	"[sig-api-machinery] Garbage collector":                             collector,
	"[sig-api-machinery] Namespaces":                                    namespaces,
	"[sig-api-machinery] OrderedNamespaceDeletion":                      orderedDeletion,
	"[sig-api-machinery] Servers with support for API chunking":         chunking,
	"[sig-api-machinery] Servers with support for Table transformation": tables,
	"[sig-api-machinery] Watchers":                                      watchers,
	"[sig-api-machinery] server version":                                serverVersion,
}

// elsewhere names the tests of other packages that hold an entry.
var elsewhere = map[string]string{
	"[sig-architecture] Conformance Tests should have at least two untainted nodes": "test/e2e TestAccounts",
	"[sig-auth] ServiceAccounts should mount an API token into pods":                "test/e2e TestAccounts",
	"[sig-auth] ServiceAccounts should mount projected service account token":       "test/e2e TestAccounts",
}

// TestEveryEntry compares the tests with the suite's list.
func TestEveryEntry(t *testing.T) {
	file, err := os.ReadFile("testdata/entries.txt")
	if err != nil {
		t.Fatal(err)
	}
	listed := strings.Split(strings.TrimSpace(string(file)), "\n")
	tested := map[string]bool{}
	for group, tests := range groups {
		for name := range tests {
			tested[group+" "+name] = true
		}
	}
	for name, where := range elsewhere {
		folder, function, _ := strings.Cut(where, " ")
		if !declares(t, filepath.Join("..", "..", folder), function) {
			t.Errorf("%s: there is no %s in %s", name, function, folder)
		}
		tested[name] = true
	}
	for _, name := range listed {
		if !tested[name] {
			t.Errorf("no test holds %s", name)
		}
	}
	for name := range tested {
		if !slices.Contains(listed, name) {
			t.Errorf("the suite has no entry %s", name)
		}
	}
}

func declares(t *testing.T, folder, function string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(name string) bool {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(text), "\nfunc "+function+"(t *testing.T) {")
	})
}

func TestConformance(t *testing.T) {
	s := start(t)
	for group, tests := range groups {
		for name, test := range tests {
			t.Run(group+" "+name, func(t *testing.T) {
				t.Parallel()
				test(s.in(t))
			})
		}
	}
}

// server is a running server as one test uses it.
type server struct {
	*testing.T
	config *rest.Config
	kube   kubernetes.Interface
	// api is a typed client over HTTP, dynamic one without types, http one
	// without anything.
	api     client.WithWatch
	dynamic dynamic.Interface
	http    *http.Client
	// ctx ends with the test, or when it takes too long.
	ctx context.Context
	// ns is the test's namespace. It has a label of the same name.
	ns string
}

func start(t *testing.T) *server {
	t.Helper()
	c := controllertest.Start(t)
	c.Nodes()
	c.Kubelet()
	ctx, cancel := context.WithCancel(context.Background())
	all, err := controllers.New(ctx, controllers.Config{
		Set: c.Account, Discover: c.Discover, CABundle: c.PKI.CA.PEM, Certificates: csr.Options{Signer: c.PKI.CA},
		SignToken: c.SecretToken, Manager: c.Set(identity.Component("system:kube-controller-manager")),
		Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
		Nodes: nodelifecycle.Options{StartupGrace: time.Hour}, // they never say anything
	})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- all.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("controllers: %v", err)
		}
	})
	return over(t, c.Config)
}

// over makes the clients of a server.
func over(t *testing.T, config *rest.Config) *server {
	t.Helper()
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme} {
		if err := add(types); err != nil {
			t.Fatal(err)
		}
	}
	s := &server{T: t, config: config, ctx: t.Context()}
	var err error
	if s.http, err = rest.HTTPClientFor(config); err == nil {
		t.Cleanup(s.http.CloseIdleConnections)
		s.kube, err = kubernetes.NewForConfigAndClient(config, s.http)
	}
	if err == nil {
		s.dynamic, err = dynamic.NewForConfigAndClient(config, s.http)
	}
	if err == nil {
		s.api, err = client.NewWithWatch(config, client.Options{Scheme: types, HTTPClient: s.http})
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// in returns s reporting to t, a subtest, with a namespace of its own.
func (s *server) in(t *testing.T) *server {
	c := *s
	c.T = t
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	c.ctx = ctx
	c.ns = c.namespace("conformance-", nil)
	ns := &corev1.Namespace{}
	c.change(ns, c.ns, func() { ns.Labels[c.ns] = "true" })
	return &c
}

// namespace makes a namespace that pods can be created in.
func (s *server) namespace(prefix string, labels map[string]string) string {
	s.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: prefix, Labels: labels}}
	s.create(ns)
	s.until("the namespace has its account", func() bool {
		return s.get(&corev1.ServiceAccount{}, ns.Name+"/default") == nil
	})
	return ns.Name
}

// background is for what is done after the test.
func (s *server) background() context.Context { return context.WithoutCancel(s.Context()) }

// ok fails the test if there is an error.
func (s *server) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// refused fails the test unless the error says all of texts.
func (s *server) refused(err error, texts ...string) {
	s.Helper()
	if err == nil {
		s.Fatalf("nothing was refused with %q", texts)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			s.Errorf("refused with %q, not with %q", err, text)
		}
	}
}

// create makes the objects; those without a namespace get the test's, if they
// belong to one.
func (s *server) create(objects ...client.Object) {
	s.Helper()
	for _, o := range objects {
		s.ok(s.try(o))
	}
}

// try is create of one object, which may fail.
func (s *server) try(o client.Object) error {
	s.Helper()
	if namespaced, err := s.api.IsObjectNamespaced(o); err != nil {
		s.Fatal(err)
	} else if namespaced && o.GetNamespace() == "" {
		o.SetNamespace(s.ns)
	}
	return s.api.Create(s.ctx, o)
}

func (s *server) key(name string) client.ObjectKey {
	if namespace, name, ok := strings.Cut(name, "/"); ok {
		return client.ObjectKey{Namespace: namespace, Name: name}
	}
	return client.ObjectKey{Namespace: s.ns, Name: name}
}

// get reads the object named name (in the test's namespace) or namespace/name.
func (s *server) get(into client.Object, name string) error {
	s.Helper()
	key := s.key(name)
	if namespaced, err := s.api.IsObjectNamespaced(into); err != nil {
		s.Fatal(err)
	} else if !namespaced {
		key.Namespace = ""
	}
	return s.api.Get(s.ctx, key, into)
}

// change reads the object anew, changes and stores it, again after conflicts.
func (s *server) change(o client.Object, name string, change func()) {
	s.Helper()
	s.ok(s.tryChange(o, name, change, func(o client.Object) error { return s.api.Update(s.ctx, o) }))
}

// changeStatus does so with the object's status.
func (s *server) changeStatus(o client.Object, name string, change func()) {
	s.Helper()
	s.ok(s.tryChange(o, name, change, func(o client.Object) error { return s.api.Status().Update(s.ctx, o) }))
}

func (s *server) tryChange(o client.Object, name string, change func(), store func(client.Object) error) error {
	s.Helper()
	for {
		s.ok(s.get(o, name))
		change()
		if err := store(o); !apierrors.IsConflict(err) {
			return err
		}
	}
}

func (s *server) delete(o client.Object, options ...client.DeleteOption) {
	s.Helper()
	s.ok(s.api.Delete(s.ctx, o, options...))
}

func (s *server) list(into client.ObjectList, options ...client.ListOption) {
	s.Helper()
	s.ok(s.api.List(s.ctx, into, options...))
}

// gone waits until the object is not there any more.
func (s *server) gone(o client.Object) {
	s.Helper()
	key := client.ObjectKeyFromObject(o)
	s.until(fmt.Sprintf("%T %s is gone", o, key), func() bool { return apierrors.IsNotFound(s.api.Get(s.ctx, key, o)) })
}

// until waits for a condition.
func (s *server) until(what string, done func() bool) {
	s.Helper()
	deadline := time.Now().Add(patience)
	for !done() {
		if time.Now().After(deadline) {
			s.Fatalf("%s: not within %s", what, patience)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// events is an open watch.
type events struct {
	*server
	watch.Interface
}

// watch opens a watch; it ends with the test.
func (s *server) watch(list client.ObjectList, options ...client.ListOption) events {
	s.Helper()
	w, err := s.api.Watch(s.ctx, list, options...)
	s.ok(err)
	s.Cleanup(w.Stop)
	return events{s, w}
}

// next is the next event, which must be of the type.
func (e events) next(want watch.EventType) client.Object {
	e.Helper()
	select {
	case got, open := <-e.ResultChan():
		if !open || got.Type != want {
			e.Fatalf("the watch shows %q %v, not %s", got.Type, got.Object, want)
		}
		return got.Object.(client.Object)
	case <-time.After(patience):
		e.Fatalf("the watch shows no %s within %s", want, patience)
		return nil
	}
}

// await skips events until one is of the type and ok.
func (e events) await(want watch.EventType, ok func(client.Object) bool) {
	e.Helper()
	deadline := time.After(patience)
	for {
		select {
		case got, open := <-e.ResultChan():
			if !open {
				e.Fatal("the watch ended")
			}
			if o, isObject := got.Object.(client.Object); isObject && got.Type == want && ok(o) {
				return
			}
		case <-deadline:
			e.Fatalf("the watch does not show that %s within %s", want, patience)
		}
	}
}

// none fails if the watch shows anything of what was done before now: a
// sentinel that the watch must see comes next.
func (e events) none(sentinel client.Object) {
	e.Helper()
	e.create(sentinel)
	if got := e.next(watch.Added); got.GetUID() != sentinel.GetUID() {
		e.Errorf("the watch shows %s", got.GetName())
	}
}

// request is one HTTP request with headers, given as name and value in turn.
func (s *server) request(method, path, body string, headers ...string) (int, http.Header, string) {
	s.Helper()
	req, err := http.NewRequestWithContext(s.ctx, method, s.config.Host+path, strings.NewReader(body))
	s.ok(err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := s.http.Do(req)
	s.ok(err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	s.ok(err)
	return res.StatusCode, res.Header, string(text)
}

// pod is a pod that runs until it is deleted.
func pod(name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "example.com/main"}}},
	}
}

// running waits until the pod runs.
func (s *server) running(p *corev1.Pod) {
	s.Helper()
	s.until("pod "+p.Name+" runs", func() bool {
		s.ok(s.get(p, p.Namespace+"/"+p.Name))
		return p.Status.Phase == corev1.PodRunning
	})
}

func configMap(name string, data ...string) *corev1.ConfigMap {
	c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{}}
	for i := 0; i < len(data); i += 2 {
		c.Data[data[i]] = data[i+1]
	}
	return c
}

// newer fails unless the second object is a later state of the first.
func (s *server) newer(before, after client.Object) {
	s.Helper()
	order, err := resourceversion.CompareResourceVersion(before.GetResourceVersion(), after.GetResourceVersion())
	if err != nil || order != -1 {
		s.Errorf("resourceVersion %q after %q: %v", after.GetResourceVersion(), before.GetResourceVersion(), err)
	}
}

// field is a field of an object without a type.
func field(u *unstructured.Unstructured, path ...string) any {
	v, _, _ := unstructured.NestedFieldNoCopy(u.Object, path...)
	return v
}
