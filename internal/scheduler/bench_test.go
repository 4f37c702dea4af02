package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

func benchScheduler(b *testing.B) (*Scheduler, *testcluster.Cluster) {
	c := testcluster.Start(b)
	s, err := New(Config{Client: c.Set(identity.Component("system:kube-scheduler")), Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	return s, c
}

func benchNode(i int) *corev1.Node {
	name := fmt.Sprintf("n%05d", i)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprintf("z%d", i%3)}}}
	n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("32"), "memory": resource.MustParse("256Gi"), "pods": resource.MustParse("110")}
	n.Status.Capacity = n.Status.Allocatable
	return n
}

func benchPod(i int) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("p%06d", i), Labels: map[string]string{"app": fmt.Sprintf("a%d", i%5)}}}
	p.Spec.SchedulerName = DefaultName
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
		"cpu": resource.MustParse("100m"), "memory": resource.MustParse("200Mi")}}}}
	return p
}

// kinds of pods, each of five applications.
var benchKinds = []struct {
	name   string
	change func(*corev1.Pod)
}{
	{"plain", func(*corev1.Pod) {}},
	{"anti-affinity", func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels}}}}}
	}},
	{"all-different", func(p *corev1.Pod) { p.Labels["apps.kubernetes.io/pod-index"] = p.Name }},
	{"zone-spread", func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone,
			WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels}}}
	}},
}

// BenchmarkAlone is everything but the API: pods come as events, are decided
// about, and come back as events with their node.
func BenchmarkAlone(b *testing.B) {
	for _, kind := range benchKinds {
		b.Run(kind.name, func(b *testing.B) {
			const nodes = 5000
			s, _ := benchScheduler(b)
			ctx := b.Context()
			for i := range nodes {
				s.nodeEventLocked(nil, benchNode(i))
			}
			i := 0
			var on []*corev1.Pod
			for b.Loop() {
				if len(on) == nodes*4 {
					// The cluster is made empty again.
					b.StopTimer()
					for _, p := range on {
						s.podEventLocked(p, nil)
					}
					on = on[:0]
					b.StartTimer()
				}
				p := benchPod(i)
				kind.change(p)
				p.UID = types.UID(p.Name)
				i++
				s.podEventLocked(nil, p)
				d, ok := s.next(ctx)
				if !ok || d.node == "" {
					b.Fatalf("pod %d was not placed: %s", i, d.message)
				}
				bound := *p
				bound.Spec.NodeName = d.node
				s.podEventLocked(p, &bound)
				on = append(on, &bound)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
		})
	}
}

// BenchmarkThroughAPI makes pods with in-process clients and counts until all
// are bound.
func BenchmarkThroughAPI(b *testing.B) {
	for _, kind := range benchKinds {
		b.Run(kind.name, func(b *testing.B) {
			const nodes, clients = 1000, 32
			s, c := benchScheduler(b)
			if err := c.Client.Create(b.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}); err != nil {
				b.Fatal(err)
			}
			for i := range nodes {
				n := benchNode(i)
				if err := c.Client.Create(b.Context(), n); err != nil {
					b.Fatal(err)
				}
				n.Spec.Taints = nil
				if err := c.Client.Update(b.Context(), n); err != nil {
					b.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			w, err := c.Client.Watch(b.Context(), &corev1.PodList{})
			if err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			var next atomic.Int64
			var making sync.WaitGroup
			for range clients {
				making.Go(func() {
					for i := int(next.Add(1)) - 1; i < b.N; i = int(next.Add(1)) - 1 {
						p := benchPod(i)
						kind.change(p)
						if err := c.Client.Create(b.Context(), p); err != nil {
							b.Error(err)
						}
					}
				})
			}
			bound := map[types.UID]bool{}
			for len(bound) < b.N {
				if p, ok := (<-w.ResultChan()).Object.(*corev1.Pod); ok && p.Spec.NodeName != "" {
					bound[p.UID] = true
				}
			}
			b.StopTimer()
			making.Wait()
			w.Stop()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
			cancel()
			if err := <-done; err != nil {
				b.Error(err)
			}
		})
	}
}
