package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A load is pods to schedule.
type load struct {
	name  string
	nodes int
	// pods are made, and so many of them fit.
	pods, fit int
	pod       func(i int) *corev1.Pod
	// before are pods that are there already.
	before    int
	beforePod func(i int) *corev1.Pod
	upstream  float64
}

var loads = []load{
	{name: "plain", nodes: 1000, pods: 2000, fit: 2000, pod: plainPod, upstream: upstreamScheduled},
	{name: "plain", nodes: 5000, pods: 10000, fit: 10000, pod: plainPod, upstream: upstreamScheduled},
	{name: "required anti-affinity", nodes: 1000, pods: 2000, fit: 2000, pod: aloofPod, upstream: upstreamAntiAffinity},
	{name: "zone spread", nodes: 1000, pods: 2000, fit: 2000, pod: spreadPod, upstream: upstreamZoneSpread},
	{name: "half of them unschedulable", nodes: 1000, pods: 4000, fit: 2000, pod: hugeOrPlainPod},
	{name: "by preemption", nodes: 1000, pods: 1000, fit: 1000, pod: urgentPod, before: 3000, beforePod: largePod},
}

func podName(i int) string { return fmt.Sprintf("p-%06d", i) }

func plainPod(i int) *corev1.Pod { return newPod(podName(i), corev1.DefaultSchedulerName) }

// aloofPod is of one of several applications that want one pod on a node.
func aloofPod(i int) *corev1.Pod {
	p := plainPod(i)
	p.Labels["app"] = fmt.Sprintf("aloof-%d", i%5)
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
		TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}},
	}}}}
	return p
}

func spreadPod(i int) *corev1.Pod {
	p := plainPod(i)
	p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}},
	}}
	return p
}

func hugeOrPlainPod(i int) *corev1.Pod {
	p := plainPod(i)
	if i%2 == 1 {
		requests(p)[corev1.ResourceCPU] = resource.MustParse("64")
	}
	return p
}

// largePod is a third of a node; it goes at once when it is deleted.
func largePod(i int) *corev1.Pod {
	p := newPod(fmt.Sprintf("large-%06d", i), corev1.DefaultSchedulerName)
	requests(p)[corev1.ResourceCPU] = resource.MustParse("10")
	p.Spec.TerminationGracePeriodSeconds = new(int64)
	return p
}

func urgentPod(i int) *corev1.Pod {
	p := plainPod(i)
	requests(p)[corev1.ResourceCPU] = resource.MustParse("10")
	p.Spec.PriorityClassName = urgent
	return p
}

const urgent = "urgent"

func requests(p *corev1.Pod) corev1.ResourceList { return p.Spec.Containers[0].Resources.Requests }

// measureSchedule makes pods, as fast as the API takes them, on nodes that
// nobody runs, and stops the time when the last one that fits is bound: making
// the pods is part of it.
func measureSchedule(ctx context.Context, b *bench) error {
	for _, l := range loads {
		if err := l.measure(ctx, b); err != nil {
			return fmt.Errorf("%s, %d nodes: %w", l.name, l.nodes, err)
		}
	}
	return nil
}

func (l *load) measure(ctx context.Context, b *bench) error {
	s, done, err := b.withNodes(ctx, l.nodes)
	if err != nil {
		return err
	}
	defer done()
	class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: urgent}, Value: 1000}
	c := s.client()
	defer c.CloseIdleConnections()
	if err := s.create(ctx, c, "/apis/scheduling.k8s.io/v1/priorityclasses", class); err != nil {
		return err
	}
	if l.before > 0 {
		if _, err := s.bind(ctx, 0, l.before, l.before, l.beforePod); err != nil {
			return err
		}
	}
	took, err := s.bind(ctx, l.before, l.pods, l.fit, l.pod)
	if err != nil {
		return err
	}
	b.report(figure{fmt.Sprintf("pods bound, %d nodes, %s", l.nodes, l.name), float64(l.fit) / took.Seconds(), "/s", l.upstream, false})
	return nil
}

// withNodes starts a server with nodes that nobody runs. done stops it.
func (b *bench) withNodes(ctx context.Context, nodes int) (s *server, done func(), err error) {
	if s, err = b.fresh(ctx); err != nil {
		return nil, nil, err
	}
	err = s.namespace(ctx, namespace)
	var quiet func()
	if err == nil {
		quiet, err = s.makeNodes(ctx, nodes)
	}
	if err != nil {
		return nil, nil, errors.Join(err, s.stop())
	}
	return s, func() {
		quiet()
		_ = s.stop()
	}, nil
}

// bind makes n pods and returns how long it took until fit of them were bound;
// there are pods bound before.
func (a *api) bind(ctx context.Context, before, n, fit int, pod func(i int) *corev1.Pod) (time.Duration, error) {
	const span = 3 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	bound := make(chan int, 1)
	watching, err := a.watchBound(ctx, before+fit, bound)
	if err != nil {
		return 0, err
	}
	defer watching()
	began := time.Now()
	_, err = a.each(ctx, 32, n, func(ctx context.Context, c *http.Client, i int) error {
		return a.create(ctx, c, collection("pods"), pod(i))
	})
	if err != nil {
		return 0, err
	}
	if n := <-bound; n < before+fit {
		return 0, fmt.Errorf("only %d of %d pods were bound within %v", n-before, fit, span)
	}
	return time.Since(began), nil
}

// measureDeployment makes a Deployment and stops the time when its pods are
// bound and it has counted them.
func measureDeployment(ctx context.Context, b *bench) error {
	const nodes, replicas = 1000, 5000
	s, done, err := b.withNodes(ctx, nodes)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	bound := make(chan int, 1)
	watching, err := s.watchBound(ctx, replicas, bound)
	if err != nil {
		return err
	}
	defer watching()
	c := s.client()
	defer c.CloseIdleConnections()
	template := plainPod(0)
	// The label with the hash is the Deployment's own.
	template.Labels = map[string]string{"app": "bench"}
	count := int32(replicas)
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "bench"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &count, Selector: &metav1.LabelSelector{MatchLabels: template.Labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: template.Labels}, Spec: template.Spec},
		},
	}
	const path = "/apis/apps/v1/namespaces/" + namespace + "/deployments"
	began := time.Now()
	if err := s.create(ctx, c, path, d); err != nil {
		return err
	}
	if n := <-bound; n < replicas {
		return fmt.Errorf("only %d of %d replicas were bound", n, replicas)
	}
	for d.Status.Replicas < count {
		if err := s.do(ctx, c, request{method: http.MethodGet, path: path + "/bench"}, d); err != nil {
			return err
		}
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	b.report(figure{fmt.Sprintf("Deployment of %d replicas, bound and counted", replicas), time.Since(began).Seconds(), "s", 0, true})
	return nil
}

// makeNodes makes nodes as their kubelets would, and waits until the control
// plane is done with them. Their leases are renewed until quiet is called.
func (a *api) makeNodes(ctx context.Context, n int) (quiet func(), err error) {
	_, err = a.each(ctx, 16, n, func(ctx context.Context, c *http.Client, i int) error {
		node := newNode(i)
		if err := a.create(ctx, c, "/api/v1/nodes", node); err != nil {
			return err
		}
		seconds := int32(40)
		now := metav1.NowMicro()
		return a.create(ctx, c, leases, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: node.Name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &node.Name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		})
	})
	if err != nil {
		return nil, err
	}
	beating, cancel := context.WithCancel(ctx)
	stopped := make(chan error, 1)
	go func() { stopped <- a.heartbeats(beating, n) }()
	quiet = func() {
		cancel()
		<-stopped
	}
	if err := a.settled(ctx, n); err != nil {
		quiet()
		return nil, err
	}
	return quiet, nil
}

// settled waits until the n nodes have no taints and do not change any more.
func (a *api) settled(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	c := a.client()
	defer c.CloseIdleConnections()
	before := map[string]string{}
	for {
		var list corev1.NodeList
		if err := a.do(ctx, c, request{method: http.MethodGet, path: "/api/v1/nodes"}, &list); err != nil {
			return fmt.Errorf("waiting for the nodes to settle: %w", err)
		}
		restless := n - len(list.Items)
		for i := range list.Items {
			node := &list.Items[i]
			if len(node.Spec.Taints) > 0 || before[node.Name] != node.ResourceVersion {
				restless++
			}
			before[node.Name] = node.ResourceVersion
		}
		if restless == 0 {
			return nil
		}
		if wait(ctx, 500*time.Millisecond) != nil {
			return fmt.Errorf("%d of %d nodes have taints or change", restless, n)
		}
	}
}

const leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"

// heartbeats renews the nodes' leases, each every 20 seconds, until ctx ends.
func (a *api) heartbeats(ctx context.Context, nodes int) error {
	c := a.client()
	defer c.CloseIdleConnections()
	tick := time.NewTicker(20 * time.Second / time.Duration(nodes))
	defer tick.Stop()
	for i := 0; ; i = (i + 1) % nodes {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		patch, err := json.Marshal(map[string]any{"spec": map[string]any{"renewTime": metav1.NowMicro()}})
		if err != nil {
			return err
		}
		if err := a.do(ctx, c, request{method: http.MethodPatch, path: leases + "/" + nodeName(i), body: patch, patch: true}, nil); err != nil {
			return err
		}
	}
}

// watchBound sends the number of pods that were bound once it is n or ctx ends.
func (a *api) watchBound(ctx context.Context, n int, bound chan<- int) (stop func(), err error) {
	c := a.client()
	body, err := a.open(ctx, c, request{
		method: http.MethodGet, path: collection("pods") + "?watch=true&resourceVersion=0&fieldSelector=spec.nodeName!%3D",
		accept: mediaProtobuf + ";stream=watch",
	})
	if err != nil {
		return nil, err
	}
	go func() {
		seen := 0
		// Its end is told by the number.
		_ = frames(body, func(frame []byte) bool {
			if kind, err := eventType(frame); err == nil && kind == "ADDED" {
				seen++
			}
			return seen < n
		})
		bound <- seen
	}()
	return func() { body.Close(); c.CloseIdleConnections() }, nil
}
