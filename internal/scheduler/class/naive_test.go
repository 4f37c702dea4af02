package class_test

import (
	"fmt"
	"math"
	"math/rand/v2"
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

// byApp stands for services: pods of one application are equal.
func byApp(pod *corev1.Pod) labels.Selector {
	if pod.Labels["service"] == "" {
		return labels.SelectorFromSet(nil)
	}
	return labels.SelectorFromSet(labels.Set{"app": pod.Labels["app"]})
}

func profile() *framework.Profile {
	spread := &podtopologyspread.Plugin{DefaultSelector: byApp}
	affinity := &interpodaffinity.Plugin{Namespace: func(string) labels.Set { return nil }, HardWeight: 1}
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

// naive decides by asking every rule about every node, from the objects alone.
type naive struct {
	nodes map[string]*corev1.Node
	pods  map[types.UID]*corev1.Pod
}

func (v *naive) best(pod *corev1.Pod) string {
	feasible := map[string]bool{}
	for name, n := range v.nodes {
		if v.fits(pod, n) {
			feasible[name] = true
		}
	}
	total := map[string]int64{}
	v.compare(total, feasible, 3, func(n *corev1.Node) (int64, bool) {
		var count int64
		for _, t := range n.Spec.Taints {
			if t.Effect == corev1.TaintEffectPreferNoSchedule {
				count++
			}
		}
		return count, true
	}, func(s, _, hi int64) int64 {
		if hi == 0 {
			return 100
		}
		return 100 - 100*s/hi
	})
	for name := range feasible {
		total[name] += v.load(pod, v.nodes[name])
	}
	v.compare(total, feasible, 2, v.spreadScore(pod, feasible), func(s, lo, hi int64) int64 {
		if hi == 0 {
			return 100
		}
		return 100 * (hi + lo - s) / hi
	})
	v.compare(total, feasible, 2, v.affinityScore(pod), func(s, lo, hi int64) int64 {
		if hi == lo {
			return 0
		}
		return int64(100 * (float64(s-lo) / float64(hi-lo)))
	})
	best := ""
	for name := range feasible {
		if best == "" || total[name] > total[best] || total[name] == total[best] && class.Tie(seed, name) > class.Tie(seed, best) {
			best = name
		}
	}
	return best
}

func (v *naive) compare(total map[string]int64, feasible map[string]bool, weight int64,
	score func(*corev1.Node) (int64, bool), normalize func(s, lo, hi int64) int64) {
	lo, hi := int64(math.MaxInt64), int64(math.MinInt64)
	scores := map[string]int64{}
	for name := range feasible {
		if s, ok := score(v.nodes[name]); ok {
			scores[name] = s
			lo, hi = min(lo, s), max(hi, s)
		}
	}
	for name, s := range scores {
		total[name] += weight * normalize(s, lo, hi)
	}
}

func (v *naive) on(n *corev1.Node) (out []*corev1.Pod) {
	for _, p := range v.pods {
		if p.Spec.NodeName == n.Name {
			out = append(out, p)
		}
	}
	return out
}

func amount(p *corev1.Pod, name corev1.ResourceName, missing int64) int64 {
	q, ok := p.Spec.Containers[0].Resources.Requests[name]
	if !ok {
		return missing
	}
	return q.MilliValue()
}

func (v *naive) fits(pod *corev1.Pod, n *corev1.Node) bool {
	if n.Spec.Unschedulable {
		return false
	}
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoSchedule {
			return false
		}
	}
	for key, value := range pod.Spec.NodeSelector {
		if n.Labels[key] != value {
			return false
		}
	}
	here := v.on(n)
	cpu, memory := amount(pod, "cpu", 0), amount(pod, "memory", 0)
	for _, p := range here {
		cpu += amount(p, "cpu", 0)
		memory += amount(p, "memory", 0)
		for _, a := range p.Spec.Containers[0].Ports {
			for _, b := range pod.Spec.Containers[0].Ports {
				if a.HostPort == b.HostPort {
					return false
				}
			}
		}
	}
	if len(here)+1 > int(n.Status.Allocatable.Pods().Value()) ||
		amount(pod, "cpu", 0) > 0 && cpu > n.Status.Allocatable.Cpu().MilliValue() ||
		amount(pod, "memory", 0) > 0 && memory > n.Status.Allocatable.Memory().MilliValue() {
		return false
	}
	return v.spreads(pod, n) && v.near(pod, n)
}

func matches(s *metav1.LabelSelector, p *corev1.Pod) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(p.Labels))
}

func (v *naive) count(n *corev1.Node, ok func(*corev1.Pod) bool) (count int64) {
	for _, p := range v.on(n) {
		if ok(p) {
			count++
		}
	}
	return count
}

// domains sums over the nodes that have all keys and that the pod selects.
func (v *naive) domains(pod *corev1.Pod, key string, all []string, ok func(*corev1.Pod) bool) map[string]int64 {
	sums := map[string]int64{}
nodes:
	for _, n := range v.nodes {
		for k, value := range pod.Spec.NodeSelector {
			if n.Labels[k] != value {
				continue nodes
			}
		}
		for _, k := range all {
			if _, has := n.Labels[k]; !has {
				continue nodes
			}
		}
		if d, has := n.Labels[key]; has {
			sums[d] += v.count(n, ok)
		}
	}
	return sums
}

func (v *naive) spreads(pod *corev1.Pod, n *corev1.Node) bool {
	var keys []string
	for _, c := range pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == corev1.DoNotSchedule {
			keys = append(keys, c.TopologyKey)
		}
	}
	for _, c := range pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable != corev1.DoNotSchedule {
			continue
		}
		sums := v.domains(pod, c.TopologyKey, keys, func(p *corev1.Pod) bool { return matches(c.LabelSelector, p) })
		least, first := int64(0), true
		for _, s := range sums {
			if first || s < least {
				least, first = s, false
			}
		}
		if c.MinDomains != nil && len(sums) < int(*c.MinDomains) {
			least = 0
		}
		d, has := n.Labels[c.TopologyKey]
		if !has || sums[d]+1-least > int64(c.MaxSkew) {
			return false
		}
	}
	return true
}

func (v *naive) near(pod *corev1.Pod, n *corev1.Node) bool {
	near, far := requiredTerms(pod)
	for _, t := range near {
		d, has := n.Labels[t.TopologyKey]
		if !has {
			return false
		}
		anywhere, here := false, false
		for _, p := range v.pods {
			on := v.nodes[p.Spec.NodeName]
			if on == nil || !matches(t.LabelSelector, p) {
				continue
			}
			if other, ok := on.Labels[t.TopologyKey]; ok {
				anywhere = true
				here = here || other == d
			}
		}
		if !here && (anywhere || !matches(t.LabelSelector, pod)) {
			return false
		}
	}
	for _, p := range v.pods {
		on := v.nodes[p.Spec.NodeName]
		if on == nil {
			continue
		}
		together := func(key string) bool {
			a, ok := n.Labels[key]
			b, okOther := on.Labels[key]
			return ok && okOther && a == b
		}
		for _, t := range far {
			if matches(t.LabelSelector, p) && together(t.TopologyKey) {
				return false
			}
		}
		_, theirs := requiredTerms(p)
		for _, t := range theirs {
			if matches(t.LabelSelector, pod) && together(t.TopologyKey) {
				return false
			}
		}
	}
	return true
}

func requiredTerms(p *corev1.Pod) (near, far []corev1.PodAffinityTerm) {
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			near = a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
		if a.PodAntiAffinity != nil {
			far = a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
	}
	return near, far
}

func preferredTerms(p *corev1.Pod) []corev1.WeightedPodAffinityTerm {
	if a := p.Spec.Affinity; a != nil && a.PodAffinity != nil {
		return a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

func (v *naive) affinityScore(pod *corev1.Pod) func(*corev1.Node) (int64, bool) {
	return func(n *corev1.Node) (score int64, _ bool) {
		for _, p := range v.pods {
			on := v.nodes[p.Spec.NodeName]
			if on == nil {
				continue
			}
			add := func(t corev1.PodAffinityTerm, about *corev1.Pod, weight int64) {
				a, ok := n.Labels[t.TopologyKey]
				b, okOther := on.Labels[t.TopologyKey]
				if ok && okOther && a == b && matches(t.LabelSelector, about) {
					score += weight
				}
			}
			for _, t := range preferredTerms(pod) {
				add(t.PodAffinityTerm, p, int64(t.Weight))
			}
			for _, t := range preferredTerms(p) {
				add(t.PodAffinityTerm, pod, int64(t.Weight))
			}
			near, _ := requiredTerms(p)
			for _, t := range near {
				add(t, pod, 1)
			}
		}
		return score, true
	}
}

type soft struct {
	key string
	max int64
	ok  func(*corev1.Pod) bool
}

func (v *naive) spreadScore(pod *corev1.Pod, feasible map[string]bool) func(*corev1.Node) (int64, bool) {
	var constraints []soft
	var all []string
	for _, c := range pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == corev1.ScheduleAnyway {
			constraints = append(constraints, soft{c.TopologyKey, int64(c.MaxSkew), func(p *corev1.Pod) bool { return matches(c.LabelSelector, p) }})
			all = append(all, c.TopologyKey)
		}
	}
	if len(pod.Spec.TopologySpreadConstraints) == 0 {
		if s := byApp(pod); !s.Empty() {
			ok := func(p *corev1.Pod) bool { return s.Matches(labels.Set(p.Labels)) }
			constraints = []soft{{corev1.LabelHostname, 3, ok}, {corev1.LabelTopologyZone, 5, ok}}
		}
	}
	if len(constraints) == 0 {
		return func(*corev1.Node) (int64, bool) { return 0, false }
	}
	takesPart := func(n *corev1.Node) bool {
		for _, k := range all {
			if _, has := n.Labels[k]; !has {
				return false
			}
		}
		return true
	}
	sizes := make([]map[string]bool, len(constraints))
	sums := make([]map[string]int64, len(constraints))
	for i, c := range constraints {
		sizes[i] = map[string]bool{}
		for name := range feasible {
			if n := v.nodes[name]; takesPart(n) {
				d := n.Labels[c.key]
				if c.key == corev1.LabelHostname {
					d = name
				}
				sizes[i][d] = true
			}
		}
		sums[i] = v.domains(pod, c.key, all, c.ok)
	}
	return func(n *corev1.Node) (int64, bool) {
		if !takesPart(n) {
			return 0, false
		}
		var score float64
		for i, c := range constraints {
			if d, has := n.Labels[c.key]; has {
				score += float64(sums[i][d])*math.Log(float64(len(sizes[i])+2)) + float64(c.max-1)
			}
		}
		return int64(math.Round(score)), true
	}
}

// load is the score by free and evenly used resources.
func (v *naive) load(pod *corev1.Pod, n *corev1.Node) int64 {
	cpu, memory := amount(pod, "cpu", 100), amount(pod, "memory", 200<<20*1000)
	exactCPU, exactMemory := amount(pod, "cpu", 0), amount(pod, "memory", 0)
	balanced := exactCPU > 0 || exactMemory > 0
	for _, p := range v.on(n) {
		cpu += amount(p, "cpu", 100)
		memory += amount(p, "memory", 200<<20*1000)
		exactCPU += amount(p, "cpu", 0)
		exactMemory += amount(p, "memory", 0)
	}
	memory /= 1000
	exactMemory /= 1000
	haveCPU, haveMemory := n.Status.Allocatable.Cpu().MilliValue(), n.Status.Allocatable.Memory().Value()
	least := func(used, have int64) int64 {
		if used > have {
			return 0
		}
		return (have - used) * 100 / have
	}
	score := (least(cpu, haveCPU) + least(memory, haveMemory)) / 2
	if balanced {
		a := min(1, float64(exactCPU)/float64(haveCPU))
		b := min(1, float64(exactMemory)/float64(haveMemory))
		score += int64((1 - math.Abs(a-b)/2) * 100)
	}
	return score
}

func randomNode(r *rand.Rand, i int) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i), Labels: map[string]string{corev1.LabelHostname: fmt.Sprintf("n%d", i)}}}
	if r.IntN(8) > 0 {
		n.Labels[corev1.LabelTopologyZone] = fmt.Sprintf("z%d", r.IntN(3))
	}
	n.Labels["disk"] = []string{"ssd", "hdd"}[r.IntN(2)]
	n.Spec.Unschedulable = r.IntN(12) == 0
	switch r.IntN(8) {
	case 0:
		n.Spec.Taints = []corev1.Taint{{Key: "t", Effect: corev1.TaintEffectNoSchedule}}
	case 1:
		n.Spec.Taints = []corev1.Taint{{Key: "t", Effect: corev1.TaintEffectPreferNoSchedule}}
	}
	n.Status.Allocatable = corev1.ResourceList{
		"cpu": *resource.NewMilliQuantity(int64(1000+1000*r.IntN(3)), resource.DecimalSI), "memory": *resource.NewQuantity(int64(2+r.IntN(4))<<30, resource.BinarySI),
		"pods": *resource.NewQuantity(int64(4+r.IntN(8)), resource.DecimalSI),
	}
	return n
}

// template is a random kind of pods.
func template(r *rand.Rand) *corev1.Pod {
	app := fmt.Sprintf("a%d", r.IntN(3))
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Labels: map[string]string{"app": app}}}
	c := corev1.Container{Name: "c", Image: "i"}
	if r.IntN(3) > 0 {
		c.Resources.Requests = corev1.ResourceList{
			"cpu": *resource.NewMilliQuantity(int64(100*(1+r.IntN(5))), resource.DecimalSI), "memory": *resource.NewQuantity(int64(1+r.IntN(5))<<27, resource.BinarySI),
		}
	}
	if r.IntN(6) == 0 {
		c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
	}
	p.Spec.Containers = []corev1.Container{c}
	if r.IntN(4) == 0 {
		p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	}
	if r.IntN(3) == 0 {
		p.Labels["service"] = "yes"
	}
	target := &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
	other := &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprintf("a%d", r.IntN(3))}}
	key := func() string { return []string{corev1.LabelTopologyZone, corev1.LabelHostname}[r.IntN(2)] }
	switch r.IntN(7) {
	case 0, 1:
		for range 1 + r.IntN(2) {
			action := []corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}[r.IntN(2)]
			c := corev1.TopologySpreadConstraint{MaxSkew: int32(1 + r.IntN(2)), TopologyKey: key(), WhenUnsatisfiable: action, LabelSelector: target}
			if action == corev1.DoNotSchedule && r.IntN(3) == 0 {
				domains := int32(1 + r.IntN(4))
				c.MinDomains = &domains
			}
			p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
		}
	case 2:
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: key(), LabelSelector: other}}}}
	case 3:
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: key(), LabelSelector: other}}}}
	case 4:
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: int32(1 + r.IntN(99)),
				PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: key(), LabelSelector: other}}}}}
	}
	return p
}

// TestDecidesAsNaively compares with the naive implementation while pods come
// and go and nodes come, go and change.
func TestDecidesAsNaively(t *testing.T) {
	rounds := 400
	if testing.Short() {
		rounds = 50
	}
	for round := range rounds {
		r := rand.New(rand.NewPCG(uint64(round), 1))
		c := cache.New()
		v := &naive{nodes: map[string]*corev1.Node{}, pods: map[types.UID]*corev1.Pod{}}
		set := func(i int) {
			n := randomNode(r, i)
			v.nodes[n.Name] = n
			c.SetNode(n)
		}
		size := 3 + r.IntN(12)
		for i := range size {
			set(i)
		}
		templates := make([]*corev1.Pod, 1+r.IntN(4))
		for i := range templates {
			templates[i] = template(r)
		}
		p, classes := profile(), map[string]*class.Class{}
		for step := range 60 {
			switch r.IntN(12) {
			case 0:
				set(r.IntN(size))
			case 1:
				name := fmt.Sprintf("n%d", r.IntN(size))
				// Nodes go with their pods.
				for uid, o := range v.pods {
					if o.Spec.NodeName == name {
						delete(v.pods, uid)
						c.DeletePod(uid)
					}
				}
				delete(v.nodes, name)
				c.DeleteNode(name)
			case 2:
				for uid := range v.pods {
					delete(v.pods, uid)
					c.DeletePod(uid)
					break
				}
			}
			pod := templates[r.IntN(len(templates))].DeepCopy()
			pod.Name = fmt.Sprintf("p%d", step)
			pod.UID = types.UID(pod.Name)
			info := framework.NewPodInfo(pod)
			k := classes[info.Class]
			if k == nil {
				k = class.New(p, c, info, seed)
				classes[info.Class] = k
			}
			got := ""
			if n := k.Best(); n != nil {
				got = n.Node.Name
			}
			if want := v.best(pod); got != want {
				t.Fatalf("round %d, step %d: got node %q, the naive implementation says %q for %v", round, step, got, want, pod.Spec)
			}
			if got != "" {
				pod.Spec.NodeName = got
				v.pods[pod.UID] = pod
				c.Assume(info, got)
			}
		}
	}
}

func BenchmarkDecide(b *testing.B) {
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
	for _, nodes := range []int{1000, 5000} {
		for _, kind := range kinds {
			b.Run(fmt.Sprintf("%s/nodes=%d", kind.name, nodes), func(b *testing.B) {
				c := cache.New()
				for i := range nodes {
					n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i), Labels: map[string]string{
						corev1.LabelHostname: fmt.Sprintf("n%d", i), corev1.LabelTopologyZone: fmt.Sprintf("z%d", i%3)}}}
					n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("32"), "memory": resource.MustParse("256Gi"), "pods": resource.MustParse("110")}
					c.SetNode(n)
				}
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Labels: map[string]string{"app": "a"}}}
				pod.Spec.Containers = []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					"cpu": resource.MustParse("100m"), "memory": resource.MustParse("200Mi")}}}}
				kind.change(pod)
				k := class.New(profile(), c, framework.NewPodInfo(pod), seed)
				k.Best()
				var placed []types.UID
				for i := 0; b.Loop(); i++ {
					n := k.Best()
					if n == nil || len(placed) == nodes-1 {
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
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
			})
		}
	}
}
