package class_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/scheduler/cache"
	"skiff/internal/scheduler/class"
	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/plugins/imagelocality"
	"skiff/internal/scheduler/plugins/interpodaffinity"
	"skiff/internal/scheduler/plugins/nodeaffinity"
	"skiff/internal/scheduler/plugins/nodeports"
	"skiff/internal/scheduler/plugins/noderesources"
	"skiff/internal/scheduler/plugins/nodeunschedulable"
	"skiff/internal/scheduler/plugins/podtopologyspread"
	"skiff/internal/scheduler/plugins/tainttoleration"
)

const seed = 7

var namespaces = map[string]map[string]string{"x": {"team": "red"}, "y": {"team": "blue"}}

func profile() *framework.Profile {
	spread := &podtopologyspread.Plugin{DefaultSelector: byApp}
	affinity := &interpodaffinity.Plugin{Namespace: func(name string) labels.Set { return namespaces[name] }, HardWeight: 1}
	return &framework.Profile{
		Filter: []framework.FilterPlugin{
			nodeunschedulable.Plugin{}, tainttoleration.Plugin{}, nodeaffinity.Plugin{}, nodeports.Plugin{},
			noderesources.Fit{}, spread, affinity,
		},
		Score: []framework.Weighted{
			{ScorePlugin: tainttoleration.Plugin{}, Weight: 3}, {ScorePlugin: nodeaffinity.Plugin{}, Weight: 2},
			{ScorePlugin: noderesources.Fit{}, Weight: 1}, {ScorePlugin: spread, Weight: 2},
			{ScorePlugin: affinity, Weight: 2}, {ScorePlugin: noderesources.BalancedAllocation{}, Weight: 1},
			{ScorePlugin: imagelocality.Plugin{}, Weight: 1},
		},
	}
}

// world is a cluster as both implementations see it.
type world struct {
	t     *testing.T
	r     *rand.Rand
	cache *cache.Cache
	naive *naive
	size  int
}

func newWorld(t *testing.T, seed uint64) *world {
	r := rand.New(rand.NewPCG(seed, 1))
	w := &world{t: t, r: r, cache: cache.New(), size: 3 + r.IntN(12), naive: &naive{
		nodes: map[string]*corev1.Node{}, pods: map[types.UID]*corev1.Pod{}, namespaces: namespaces,
	}}
	for i := range w.size {
		w.setNode(i)
	}
	return w
}

func (w *world) setNode(i int) {
	n := randomNode(w.r, i)
	w.naive.nodes[n.Name] = n
	w.cache.SetNode(n)
}

// anyPod returns one of the pods, the same for the same seed, or nil.
func (w *world) anyPod() *corev1.Pod {
	var first *corev1.Pod
	for _, p := range w.naive.pods {
		if first == nil || p.Name < first.Name {
			first = p
		}
	}
	return first
}

func (w *world) delete(p *corev1.Pod) {
	delete(w.naive.pods, p.UID)
	w.cache.DeletePod(p.UID)
}

// happen changes the world a little.
func (w *world) happen() {
	switch w.r.IntN(12) {
	case 0:
		w.setNode(w.r.IntN(w.size))
	case 1:
		// Nodes go with their pods.
		name := fmt.Sprintf("n%d", w.r.IntN(w.size))
		for _, p := range w.naive.pods {
			if p.Spec.NodeName == name {
				w.delete(p)
			}
		}
		delete(w.naive.nodes, name)
		w.cache.DeleteNode(name)
	case 2, 3:
		if p := w.anyPod(); p != nil {
			w.delete(p)
		}
	case 4:
		if p := w.anyPod(); p != nil && p.DeletionTimestamp == nil {
			going := p.DeepCopy()
			now := metav1.Now()
			going.DeletionTimestamp = &now
			w.naive.pods[p.UID] = going
			w.cache.SetPod(framework.NewPodInfo(going))
		}
	}
}

// TestDecidesAsNaively compares with the naive implementation while pods come
// and go and nodes come, go and change. NAIVE_ROUNDS sets how many clusters are
// tried, of 60 pods each.
func TestDecidesAsNaively(t *testing.T) {
	rounds := 150
	if n, err := strconv.Atoi(os.Getenv("NAIVE_ROUNDS")); err == nil {
		rounds = n
	}
	placed := 0
	for round := range rounds {
		w := newWorld(t, uint64(round))
		templates := make([]*corev1.Pod, 1+w.r.IntN(4))
		for i := range templates {
			templates[i] = template(w.r)
		}
		p, classes := profile(), class.NewClasses(2)
		classes.Regard([]string{"app", "service"})
		for step := range 60 {
			w.happen()
			pod := pick(w.r, templates...).DeepCopy()
			pod.Name = fmt.Sprintf("p%02d", step)
			pod.UID = types.UID(pod.Name)
			pod.Labels["name"] = pod.Name
			info := framework.NewPodInfo(pod)
			classes.Regard(info.Selects)
			k := classes.Of(info, func() *class.Class { return class.New(p, w.cache, info, seed) })
			got := ""
			if n := k.Best(); n != nil {
				got = n.Node.Name
			}
			if want := w.naive.best(pod); got != want {
				t.Fatalf("round %d, step %d: got node %q, the naive implementation says %q for %v", round, step, got, want, pod.Spec)
			}
			if got != "" {
				pod.Spec.NodeName = got
				w.naive.pods[pod.UID] = pod
				w.cache.Assume(info, got)
				placed++
			}
		}
	}
	if placed < 20*rounds {
		t.Errorf("only %d of %d pods were placed: that tests little", placed, 60*rounds)
	}
}

// eachLoad runs a benchmark for each kind of pods and number of nodes.
func eachLoad(b *testing.B, run func(*testing.B, []*corev1.Node, *corev1.Pod)) {
	target := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}
	kinds := []struct {
		name   string
		change func(*corev1.Pod)
	}{
		{"plain", func(*corev1.Pod) {}},
		{"service", func(p *corev1.Pod) { p.Labels["service"] = "yes" }},
		{"zones", func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: target}}
		}},
		{"anti-affinity", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelHostname, LabelSelector: target}}}}
		}},
	}
	for _, count := range []int{1000, 5000} {
		nodes := make([]*corev1.Node, count)
		for i := range nodes {
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i), Labels: map[string]string{
				corev1.LabelHostname: fmt.Sprintf("n%d", i), corev1.LabelTopologyZone: fmt.Sprintf("z%d", i%3)}}}
			n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("32"), "memory": resource.MustParse("256Gi"), "pods": resource.MustParse("110")}
			nodes[i] = n
		}
		for _, kind := range kinds {
			b.Run(fmt.Sprintf("%s/nodes=%d", kind.name, count), func(b *testing.B) {
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Labels: map[string]string{"app": "a"}}}
				pod.Spec.Containers = []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					"cpu": resource.MustParse("100m"), "memory": resource.MustParse("200Mi")}}}}
				kind.change(pod)
				run(b, nodes, pod)
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
			})
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	eachLoad(b, func(b *testing.B, nodes []*corev1.Node, pod *corev1.Pod) {
		c := cache.New()
		for _, n := range nodes {
			c.SetNode(n)
		}
		k := class.New(profile(), c, framework.NewPodInfo(pod), seed)
		k.Best()
		var placed []types.UID
		for i := 0; b.Loop(); i++ {
			n := k.Best()
			if n == nil || len(placed) == len(nodes)-1 {
				b.StopTimer()
				for _, uid := range placed {
					c.DeletePod(uid)
				}
				placed = placed[:0]
				k.Best()
				b.StartTimer()
				continue
			}
			next := *pod
			next.UID = types.UID(fmt.Sprint(i))
			info := framework.NewPodInfo(&next)
			c.Assume(info, n.Node.Name)
			placed = append(placed, next.UID)
		}
	})
}

// BenchmarkDecideNaively is the same by the naive implementation. The more pods
// there are, the longer it takes: -benchtime says how many it places.
func BenchmarkDecideNaively(b *testing.B) {
	eachLoad(b, func(b *testing.B, nodes []*corev1.Node, pod *corev1.Pod) {
		v := &naive{nodes: map[string]*corev1.Node{}, pods: map[types.UID]*corev1.Pod{}}
		for _, n := range nodes {
			v.nodes[n.Name] = n
		}
		for i := 0; b.Loop(); i++ {
			next := *pod
			next.UID = types.UID(fmt.Sprint(i))
			next.Spec.NodeName = v.best(&next)
			v.pods[next.UID] = &next
		}
	})
}
