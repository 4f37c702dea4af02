// Package controllertest runs controllers in tests: over a real API server,
// with a stand-in for the kubelets, and with helpers that wait for what should
// come and watch what must never be.
package controllertest

import (
	"context"
	"log/slog"
	"reflect"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	skiffclient "skiff/internal/client"
	"skiff/internal/cluster/testcluster"
	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/index"
	"skiff/internal/identity"
)

// patience is how long Eventually waits.
const patience = time.Minute

// Cluster is an API server and the controllers that a test runs over it.
type Cluster struct {
	*testcluster.Cluster
	// Clock is the controllers' clock.
	Clock clock.WithTicker

	t testing.TB
}

// Start starts an API server, without any controller.
func Start(t testing.TB) *Cluster { return StartAt(t, clock.RealClock{}) }

// StartAt does so for controllers that go by another clock.
func StartAt(t testing.TB, clk clock.WithTicker) *Cluster {
	t.Helper()
	c := Of(t, testcluster.Start(t))
	c.Clock = clk
	if err := index.Add(context.Background(), c.Set(identity.Loopback()).Cache); err != nil {
		t.Fatal(err)
	}
	c.Create(account(corev1.NamespaceDefault))
	return c
}

// Of is for a cluster whose controllers are run by other means, all together: they
// have their own indexes, and make the accounts of pods.
func Of(t testing.TB, c *testcluster.Cluster) *Cluster {
	return &Cluster{Cluster: c, Clock: clock.RealClock{}, t: t}
}

// Logger writes to the test's log.
func (c *Cluster) Logger() *slog.Logger { return slog.New(slog.NewTextHandler(writer{c.t}, nil)) }

// Namespace makes a namespace that pods can be created in.
func (c *Cluster) Namespace(name string) {
	c.t.Helper()
	c.Create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, account(name))
}

// account is the ServiceAccount that pods have unless they name another.
func account(namespace string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"}}
}

// Run runs a controller with the rights of the ServiceAccount of that name in
// kube-system, until stop is called or the test ends. A controller that was
// stopped can be run again.
func (c *Cluster) Run(account string, new func(controller.Deps) (controller.Runnable, error)) (stop func()) {
	c.t.Helper()
	return c.RunOver(c.Account(account), account, new)
}

// RunOver runs a controller over a view of the cluster.
func (c *Cluster) RunOver(set skiffclient.Set, name string, new func(controller.Deps) (controller.Runnable, error)) (stop func()) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	delays := c.Clock
	if _, jumps := delays.(*JumpingClock); jumps {
		delays = clock.RealClock{}
	}
	r, err := new(controller.Deps{Set: set, Clock: c.Clock, Delays: delays, Log: c.Logger().With("account", name)})
	if err != nil {
		cancel()
		c.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		if err := r.Start(ctx); err != nil && ctx.Err() == nil {
			c.t.Errorf("%s: %v", name, err)
		}
		close(done)
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	c.t.Cleanup(stop)
	return stop
}

type writer struct{ t testing.TB }

func (w writer) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// Create stores the objects.
func (c *Cluster) Create(objects ...client.Object) {
	c.t.Helper()
	for _, o := range objects {
		if err := c.Client.Create(context.Background(), o); err != nil {
			c.t.Fatalf("creating %T %s: %v", o, o.GetName(), err)
		}
	}
}

// Change reads an object anew, changes it and stores it, again after conflicts.
func Change[T client.Object](c *Cluster, o T, change func(T)) {
	c.t.Helper()
	for {
		Get(c, o.GetNamespace(), o.GetName(), o)
		change(o)
		err := c.Client.Update(context.Background(), o)
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			c.t.Fatal(err)
		}
	}
}

// Get reads an object, which must be there.
func Get[T client.Object](c *Cluster, namespace, name string, into T) T {
	c.t.Helper()
	v := reflect.ValueOf(into).Elem()
	v.SetZero()
	if err := c.Client.Get(context.Background(), types.NamespacedName{Namespace: namespace, Name: name}, into); err != nil {
		c.t.Fatal(err)
	}
	return into
}

// Delete asks for the deletion of the object.
func (c *Cluster) Delete(o client.Object, options ...client.DeleteOption) {
	c.t.Helper()
	if err := c.Client.Delete(context.Background(), o, options...); err != nil {
		c.t.Fatal(err)
	}
}

// Pods lists the pods of a namespace that have the labels.
func (c *Cluster) Pods(namespace string, labels client.MatchingLabels) []corev1.Pod {
	c.t.Helper()
	var list corev1.PodList
	c.List(&list, client.InNamespace(namespace), labels)
	return list.Items
}

// List fills the list.
func (c *Cluster) List(list client.ObjectList, options ...client.ListOption) {
	c.t.Helper()
	if err := c.Client.List(context.Background(), list, options...); err != nil {
		c.t.Fatal(err)
	}
}

// Eventually waits for ok, looking again whenever objects of list's kind
// change, or of more kinds.
func (c *Cluster) Eventually(what string, list client.ObjectList, ok func() bool, more ...client.ObjectList) {
	c.t.Helper()
	c.await(what, make(chan struct{}, 1), ok, append(more, list)...)
}

// await waits for ok, looking again whenever objects of the lists' kinds change,
// and when something is on changed.
func (c *Cluster) await(what string, changed chan struct{}, ok func() bool, lists ...client.ObjectList) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	var watching sync.WaitGroup
	defer func() { cancel(); watching.Wait() }()
	for _, kind := range lists {
		w, err := c.Client.Watch(ctx, kind)
		if err != nil {
			c.t.Fatal(err)
		}
		watching.Go(func() { c.follow(ctx, w, kind, changed) })
	}
	for !ok() {
		select {
		case <-changed:
		case <-ctx.Done():
			c.t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// follow tells of changes until ctx ends, watching again when w ends.
func (c *Cluster) follow(ctx context.Context, w watch.Interface, kind client.ObjectList, changed chan<- struct{}) {
	for {
		for range w.ResultChan() {
			tell(changed)
		}
		w.Stop()
		if ctx.Err() != nil {
			return
		}
		var err error
		if w, err = c.Client.Watch(ctx, kind); err != nil {
			if ctx.Err() == nil {
				c.t.Errorf("watching %T: %v", kind, err)
			}
			return
		}
		// What happened in between was not seen.
		tell(changed)
	}
}

func tell(changed chan<- struct{}) {
	select {
	case changed <- struct{}{}:
	default:
	}
}

// WaitForEvent waits for an Event with the reason about the object of that
// name, and returns its message.
func (c *Cluster) WaitForEvent(namespace, name, reason string) (message string) {
	c.t.Helper()
	c.Eventually("event "+reason, &corev1.EventList{}, func() bool {
		var list corev1.EventList
		c.List(&list, client.InNamespace(namespace))
		for _, e := range list.Items {
			if e.InvolvedObject.Name == name && e.Reason == reason {
				message = e.Message
				return true
			}
		}
		return false
	})
	return message
}

// Revision is the number of the last write that the server acknowledged: the
// difference of two is the number of writes between them.
func (c *Cluster) Revision() int {
	c.t.Helper()
	var list corev1.NodeList
	c.List(&list, client.Limit(1))
	n, err := strconv.Atoi(list.ResourceVersion)
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}
