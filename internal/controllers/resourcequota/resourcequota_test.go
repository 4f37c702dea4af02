package resourcequota_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/resourcequota"
)

func list(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

const namespace = "limited"

type env struct {
	*testing.T
	*testcluster.Cluster
	ctx context.Context
}

func start(t *testing.T) *env {
	c := testcluster.Start(t)
	testcluster.Run(t, newController(t, c).Start)
	if err := c.Client.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
		t.Fatal(err)
	}
	return &env{T: t, Cluster: c, ctx: t.Context()}
}

func newController(t *testing.T, c *testcluster.Cluster) controller.Runnable {
	t.Helper()
	r, err := resourcequota.New(controller.Deps{
		Set: c.Account("resourcequota-controller"), Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
	}, c.Discover)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (e *env) create(objects ...client.Object) {
	e.Helper()
	for _, o := range objects {
		o.SetNamespace(namespace)
		if err := e.Client.Create(e.ctx, o); err != nil {
			e.Fatalf("creating %T %s: %v", o, o.GetName(), err)
		}
	}
}

func (e *env) remove(o client.Object) {
	e.Helper()
	if err := e.Client.Delete(e.ctx, o, client.GracePeriodSeconds(0)); err != nil {
		e.Fatal(err)
	}
}

// wantUsed waits until the quota says that this, and nothing else, is used.
func (e *env) wantUsed(name string, want corev1.ResourceList) {
	e.Helper()
	var q corev1.ResourceQuota
	defer func() {
		if e.Failed() {
			e.Logf("quota %s: used %v of %v", name, q.Status.Used, q.Status.Hard)
		}
	}()
	e.Wait(e.T, fmt.Sprintf("quota %s: used %v", name, want), &corev1.ResourceQuotaList{}, func() bool {
		if err := e.Client.Get(e.ctx, client.ObjectKey{Namespace: namespace, Name: name}, &q); err != nil {
			e.Fatal(err)
		}
		return apiequality.Semantic.DeepEqual(q.Status.Used, want) && apiequality.Semantic.DeepEqual(q.Status.Hard, q.Spec.Hard)
	})
}

func quota(name string, hard corev1.ResourceList, scopes ...corev1.ResourceQuotaScope) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: hard, Scopes: scopes}}
}

func pod(name string, requests corev1.ResourceList) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: ptr.To(false),
			Containers: []corev1.Container{{
				Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: requests, Limits: requests},
			}},
		},
	}
}

func account(e *env) {
	e.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
}

func TestUsageFollowsObjects(t *testing.T) {
	e := start(t)
	account(e)
	e.create(
		quota("pods", list("pods", "2", "requests.cpu", "500m", "count/pods", "3")),
		quota("other", list("services", "2", "services.nodeports", "1", "configmaps", "2", "count/replicasets.apps", "1")))
	e.wantUsed("pods", list("pods", "0", "requests.cpu", "0", "count/pods", "0"))
	e.wantUsed("other", list("services", "0", "services.nodeports", "0", "configmaps", "0", "count/replicasets.apps", "0"))

	first := pod("first", list("cpu", "300m"))
	e.create(first)
	e.wantUsed("pods", list("pods", "1", "requests.cpu", "300m", "count/pods", "1"))
	err := e.Client.Create(e.ctx, func() client.Object { p := pod("large", list("cpu", "300m")); p.Namespace = namespace; return p }())
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: pods, requested: requests.cpu=300m, used: requests.cpu=300m, limited: requests.cpu=500m") {
		t.Errorf("a pod too large: %v", err)
	}
	first.Status.Phase = corev1.PodSucceeded
	if err := e.Client.Status().Update(e.ctx, first); err != nil {
		t.Fatal(err)
	}
	e.wantUsed("pods", list("pods", "0", "requests.cpu", "0", "count/pods", "1"))
	e.remove(first)
	e.wantUsed("pods", list("pods", "0", "requests.cpu", "0", "count/pods", "0"))

	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}},
	}}
	e.create(service)
	e.wantUsed("other", list("services", "1", "services.nodeports", "1", "configmaps", "0", "count/replicasets.apps", "0"))
	service.Spec.Type, service.Spec.Ports[0].NodePort = corev1.ServiceTypeClusterIP, 0
	if err := e.Client.Update(e.ctx, service); err != nil {
		t.Fatal(err)
	}
	e.wantUsed("other", list("services", "1", "services.nodeports", "0", "configmaps", "0", "count/replicasets.apps", "0"))

	// A status that somebody else wrote is put right, and a changed limit taken over.
	var q corev1.ResourceQuota
	if err := e.Client.Get(e.ctx, client.ObjectKey{Namespace: namespace, Name: "other"}, &q); err != nil {
		t.Fatal(err)
	}
	q.Status.Hard = list("services", "9")
	if err := e.Client.Status().Update(e.ctx, &q); err != nil {
		t.Fatal(err)
	}
	e.wantUsed("other", list("services", "1", "services.nodeports", "0", "configmaps", "0", "count/replicasets.apps", "0"))
	q.Spec.Hard, q.ResourceVersion = list("services", "5"), ""
	if err := e.Client.Update(e.ctx, &q); err != nil {
		t.Fatal(err)
	}
	e.wantUsed("other", list("services", "1"))
}

func TestScopes(t *testing.T) {
	e := start(t)
	account(e)
	e.create(quota("best", list("pods", "5"), corev1.ResourceQuotaScopeBestEffort),
		quota("not-best", list("pods", "5"), corev1.ResourceQuotaScopeNotBestEffort),
		quota("terminating", list("pods", "5"), corev1.ResourceQuotaScopeTerminating))
	for _, name := range []string{"best", "not-best", "terminating"} {
		e.wantUsed(name, list("pods", "0"))
	}
	best, limited := pod("best", nil), pod("limited", list("cpu", "1"))
	limited.Spec.ActiveDeadlineSeconds = ptr.To[int64](100)
	e.create(best, limited)
	for _, name := range []string{"best", "not-best", "terminating"} {
		e.wantUsed(name, list("pods", "1"))
	}
	e.remove(best)
	e.wantUsed("best", list("pods", "0"))
	e.wantUsed("not-best", list("pods", "1"))
}

// TestExactUnderConcurrency has many clients race for few places, over HTTP,
// while others take back what they got and others again fail for another
// reason: exactly as many succeed as there are places, and each place that is
// given back is taken again.
func TestExactUnderConcurrency(t *testing.T) {
	const clients, places = 100, 50
	e := start(t)
	e.create(quota("q", list("count/configmaps", fmt.Sprint(places))))
	e.wantUsed("q", list("count/configmaps", "0"))
	client, err := kubernetes.NewForConfig(e.Config)
	if err != nil {
		t.Fatal(err)
	}
	maps := client.CoreV1().ConfigMaps(namespace)
	var all sync.WaitGroup
	var made atomic.Int32
	for i := range clients {
		all.Go(func() {
			name := fmt.Sprint("m", i)
			_, err := maps.Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			switch {
			case err == nil:
				made.Add(1)
				// The same name again is refused for that, or for the quota; it must not count.
				_, err := maps.Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
				if !apierrors.IsAlreadyExists(err) && !apierrors.IsForbidden(err) {
					t.Errorf("the same name again: %v", err)
				}
			case !apierrors.IsForbidden(err):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made.Load() != places {
		t.Errorf("%d of %d clients got one of %d places", made.Load(), clients, places)
	}
	e.wantUsed("q", list("count/configmaps", fmt.Sprint(places)))

	// Take back and try again, all at once: never more than the places.
	for round := range 4 {
		all.Go(func() {
			have, err := maps.List(e.ctx, metav1.ListOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			for i := round; i < len(have.Items); i += 4 {
				if err := maps.Delete(e.ctx, have.Items[i].Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
					t.Error(err)
				}
				_, err := maps.Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "again-"}}, metav1.CreateOptions{})
				if err != nil && !apierrors.IsForbidden(err) {
					t.Error(err)
				}
				now, err := maps.List(e.ctx, metav1.ListOptions{})
				if err != nil || len(now.Items) > places {
					t.Errorf("%d of %d places are taken, %v", len(now.Items), places, err)
				}
			}
		})
	}
	all.Wait()
	have, err := maps.List(e.ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e.wantUsed("q", list("count/configmaps", fmt.Sprint(len(have.Items))))
}

// TestCustomResources counts objects of a kind that comes to be after the quota
// that limits it.
func TestCustomResources(t *testing.T) {
	e := start(t)
	e.create(quota("q", list("count/widgets.example.com", "1")))
	preserve := true
	if err := e.Client.Create(e.ctx, &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &preserve}},
			}},
		},
	}); err != nil {
		t.Fatal(err)
	}
	e.wantUsed("q", list("count/widgets.example.com", "0"))
	client, err := dynamic.NewForConfig(e.Config)
	if err != nil {
		t.Fatal(err)
	}
	widgets := client.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}).Namespace(namespace)
	widget := func(name string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": map[string]any{"name": name}}}
	}
	if _, err := widgets.Create(e.ctx, widget("a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	e.wantUsed("q", list("count/widgets.example.com", "1"))
	if _, err := widgets.Create(e.ctx, widget("b"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a widget too many: %v", err)
	}
	if err := widgets.Delete(e.ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.wantUsed("q", list("count/widgets.example.com", "0"))
}

// TestManyChanges makes and removes many objects at once: the quota is written
// once for each that is made, and only a few times for all that go.
func TestManyChanges(t *testing.T) {
	const n = 400
	e := start(t)
	e.create(quota("q", list("configmaps", "10000")))
	e.wantUsed("q", list("configmaps", "0"))
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { e.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m", i)}}) })
	}
	all.Wait()
	e.wantUsed("q", list("configmaps", fmt.Sprint(n)))
	w, err := e.Client.Watch(e.ctx, &corev1.ResourceQuotaList{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if err := e.Client.DeleteAllOf(e.ctx, &corev1.ConfigMap{}, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	writes := 0
	for event := range w.ResultChan() {
		q := event.Object.(*corev1.ResourceQuota)
		if used := q.Status.Used["configmaps"]; used.Value() == 0 {
			break
		}
		writes++
	}
	if writes > n/4 {
		t.Errorf("the quota was written %d times for %d objects", writes, n)
	}
}

// TestChangesWhileStopped stops the controller, and changes the world meanwhile.
func TestChangesWhileStopped(t *testing.T) {
	c := testcluster.Start(t)
	e := &env{T: t, Cluster: c, ctx: t.Context()}
	if err := c.Client.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	first := newController(t, c)
	go func() { stopped <- first.Start(ctx) }()
	m, q := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}}, quota("q", list("configmaps", "1"))
	e.create(q)
	e.wantUsed("q", list("configmaps", "0"))
	e.create(m)
	e.wantUsed("q", list("configmaps", "1"))
	stop()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	// The quota is another one of the same name afterwards.
	e.remove(m)
	e.remove(q)
	e.create(quota("q", list("configmaps", "2", "secrets", "1")))
	e.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}})
	testcluster.Run(t, newController(t, c).Start)
	e.wantUsed("q", list("configmaps", "0", "secrets", "1"))
}
