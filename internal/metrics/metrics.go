// Package metrics knows what nodes and pods use: it implements the metrics API
// (metrics.k8s.io) in process, from the resource metrics of the kubelets.
//
// Nothing is measured while nobody asks. The first question starts two rounds
// of reading, a second apart, since CPU usage is a difference; from then on
// there is a round every 15 s, until nobody has asked for a minute.
package metrics

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// interval is the time between two rounds, firstInterval that between the
	// first two.
	interval      = 15 * time.Second
	firstInterval = time.Second
	// idle is how long after the last question the measuring ends.
	idle = time.Minute
)

// Kubelets reaches the nodes' kubelets.
type Kubelets interface {
	Kubelet(ctx context.Context, n *corev1.Node) (*url.URL, http.RoundTripper, error)
}

// Config is what a Collector needs of the cluster.
type Config struct {
	Cache    client.Reader
	Kubelets Kubelets
	Clock    clock.WithTicker
	Log      *slog.Logger
}

// Collector measures usage while somebody asks for it.
type Collector struct {
	Config
	wake chan struct{}

	mu struct {
		sync.Mutex
		asked time.Time
		// current is nil while nothing is measured.
		current map[string]*node
		// measured is closed when current is there.
		measured chan struct{}
	}
}

// New returns a collector, which answers while it runs.
func New(c Config) *Collector {
	m := &Collector{Config: c, wake: make(chan struct{}, 1)}
	m.mu.measured = make(chan struct{})
	return m
}

// Run measures, whenever somebody asks, until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			c.measure(ctx)
		}
	}
}

// measure goes on for as long as there are questions.
func (c *Collector) measure(ctx context.Context) {
	nodes := c.round(ctx, nil)
	wait := firstInterval
	for {
		timer := c.Clock.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
		if c.stop() {
			return
		}
		nodes = c.round(ctx, nodes)
		c.publish(nodes)
		wait = interval
	}
}

// stop reports whether nobody wants to know any more, and then forgets what
// was measured.
func (c *Collector) stop() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Clock.Since(c.mu.asked) < idle {
		return false
	}
	if c.mu.current != nil {
		c.mu.current, c.mu.measured = nil, make(chan struct{})
	}
	return true
}

func (c *Collector) publish(nodes map[string]*node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.current == nil {
		close(c.mu.measured)
	}
	c.mu.current = nodes
}

// usage returns what was measured last, and waits for the first round.
func (c *Collector) usage(ctx context.Context) (map[string]*node, error) {
	for {
		c.mu.Lock()
		c.mu.asked = c.Clock.Now()
		current, measured := c.mu.current, c.mu.measured
		c.mu.Unlock()
		if current != nil {
			return current, nil
		}
		select {
		case c.wake <- struct{}{}:
		default:
		}
		select {
		case <-measured:
		case <-ctx.Done():
			return nil, apierrors.NewTimeoutError("usage was not measured in time: "+ctx.Err().Error(), 1)
		}
	}
}

// Node returns the usage of a node.
func (c *Collector) Node(ctx context.Context, name string) (*metricsv1beta1.NodeMetrics, error) {
	var n corev1.Node
	if err := c.Cache.Get(ctx, types.NamespacedName{Name: name}, &n, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	nodes, err := c.usage(ctx)
	if err != nil {
		return nil, err
	}
	if m := nodeMetrics(&n, nodes[name]); m != nil {
		return m, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Group: metricsv1beta1.GroupName, Resource: "nodemetrics"}, name)
}

// Nodes returns the usage of all nodes that are known.
func (c *Collector) Nodes(ctx context.Context) ([]*metricsv1beta1.NodeMetrics, error) {
	nodes, err := c.usage(ctx)
	if err != nil {
		return nil, err
	}
	var list corev1.NodeList
	if err := c.Cache.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	var all []*metricsv1beta1.NodeMetrics
	for i := range list.Items {
		if m := nodeMetrics(&list.Items[i], nodes[list.Items[i].Name]); m != nil {
			all = append(all, m)
		}
	}
	return all, nil
}

// Pod returns the usage of a pod.
func (c *Collector) Pod(ctx context.Context, namespace, name string) (*metricsv1beta1.PodMetrics, error) {
	var pod corev1.Pod
	if err := c.Cache.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &pod, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	nodes, err := c.usage(ctx)
	if err != nil {
		return nil, err
	}
	if m := podMetrics(&pod, nodes[pod.Spec.NodeName]); m != nil {
		return m, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Group: metricsv1beta1.GroupName, Resource: "podmetrics"}, namespace+"/"+name)
}

// Pods returns the usage of the namespace's pods that are known.
func (c *Collector) Pods(ctx context.Context, namespace string) ([]*metricsv1beta1.PodMetrics, error) {
	nodes, err := c.usage(ctx)
	if err != nil {
		return nil, err
	}
	var list corev1.PodList
	if err := c.Cache.List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	var all []*metricsv1beta1.PodMetrics
	for i := range list.Items {
		if m := podMetrics(&list.Items[i], nodes[list.Items[i].Spec.NodeName]); m != nil {
			all = append(all, m)
		}
	}
	return all, nil
}

func nodeMetrics(n *corev1.Node, m *node) *metricsv1beta1.NodeMetrics {
	if m == nil || m.whole.usage == nil {
		return nil
	}
	u := m.whole.usage
	return &metricsv1beta1.NodeMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels, CreationTimestamp: metav1.NewTime(u.at)},
		Timestamp:  metav1.NewTime(u.at), Window: metav1.Duration{Duration: u.window}, Usage: u.list(),
	}
}

// podMetrics is nil unless the usage of all containers that run is known: a
// part of it would look like the whole.
func podMetrics(pod *corev1.Pod, m *node) *metricsv1beta1.PodMetrics {
	if m == nil {
		return nil
	}
	containers := m.pods[types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}]
	if len(containers) == 0 {
		return nil
	}
	out := &metricsv1beta1.PodMetrics{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels},
	}
	add := func(name string) bool {
		s, ok := containers[name]
		if !ok {
			return true
		}
		if s.usage == nil {
			return false
		}
		out.Containers = append(out.Containers, metricsv1beta1.ContainerMetrics{Name: name, Usage: s.usage.list()})
		if out.Timestamp.IsZero() || s.usage.at.Before(out.Timestamp.Time) {
			out.Timestamp, out.Window.Duration = metav1.NewTime(s.usage.at), s.usage.window
		}
		return true
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if !add(list[i].Name) {
				return nil
			}
		}
	}
	if len(out.Containers) == 0 {
		return nil
	}
	out.CreationTimestamp = out.Timestamp
	return out
}

func (u *usage) list() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(u.cores*1e9), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(u.memory, resource.BinarySI),
	}
}
