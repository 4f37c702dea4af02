package defaultpreemption_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/scheduler/cache"
	"skiff/internal/scheduler/class"
	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/plugins/defaultpreemption"
	"skiff/internal/scheduler/plugins/interpodaffinity"
	"skiff/internal/scheduler/plugins/noderesources"
	"skiff/internal/scheduler/plugins/nodeunschedulable"
)

// A victim is a pod that runs on a node with 4 CPUs.
type victim struct {
	name, node, cpu string
	priority        int32
	// age is how long it has been running, in minutes.
	age int
	app string
}

func newPod(v victim) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: v.name, UID: types.UID(v.name), Labels: map[string]string{"app": v.app}}}
	p.Spec.Priority = &v.priority
	p.Spec.NodeName = v.node
	p.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(v.cpu)}}}}
	started := metav1.NewTime(start.Add(-time.Duration(v.age) * time.Minute))
	p.Status.StartTime = &started
	return p
}

var start = time.Unix(1e6, 0)

// trial is a class with where room is being made for its pod.
type trial struct {
	*class.Class
	nominated string
}

func (t trial) Nominated() string { return t.nominated }

func (trial) Consult(victims map[string]framework.Victims) (map[string]framework.Victims, error) {
	return victims, nil
}

func TestChoice(t *testing.T) {
	budget := func(app string, allowed int32) policyv1.PodDisruptionBudget {
		b := policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: app}}
		b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
		b.Status.DisruptionsAllowed = allowed
		return b
	}
	for name, test := range map[string]struct {
		pods    []victim
		budgets []policyv1.PodDisruptionBudget
		// nominated are pods for which room is being made on a node.
		nominated []victim
		cordoned  string
		preemptor victim
		// want is the node and the victims, or nothing.
		want, message string
	}{
		"the least important pods go, and no more than must": {
			pods:      []victim{{"a1", "a", "2", 1, 0, ""}, {"a2", "a", "1", 2, 0, ""}, {"a3", "a", "1", 3, 0, ""}},
			preemptor: victim{cpu: "2", priority: 10}, want: "a: a1",
		},
		"of equal ones those that run less long go": {
			pods:      []victim{{"old", "a", "2", 1, 9, ""}, {"young", "a", "2", 1, 1, ""}},
			preemptor: victim{cpu: "2", priority: 10}, want: "a: young",
		},
		"budgets count most": {
			pods:      []victim{{"a1", "a", "4", 1, 0, "kept"}, {"b1", "b", "4", 9, 0, ""}},
			budgets:   []policyv1.PodDisruptionBudget{budget("kept", 0)},
			preemptor: victim{cpu: "2", priority: 10}, want: "b: b1",
		},
		"a budget allows some": {
			pods:      []victim{{"a1", "a", "4", 1, 0, "kept"}, {"b1", "b", "4", 9, 0, ""}},
			budgets:   []policyv1.PodDisruptionBudget{budget("kept", 1)},
			preemptor: victim{cpu: "2", priority: 10}, want: "a: a1",
		},
		"without another way budgets are violated": {
			pods:      []victim{{"a1", "a", "4", 1, 0, "kept"}},
			budgets:   []policyv1.PodDisruptionBudget{budget("kept", 0)},
			preemptor: victim{cpu: "2", priority: 10}, want: "a: a1",
		},
		"then the highest priority of a victim": {
			pods:      []victim{{"a1", "a", "4", 5, 0, ""}, {"b1", "b", "2", 4, 0, ""}, {"b2", "b", "2", 4, 0, ""}},
			preemptor: victim{cpu: "4", priority: 10}, want: "b: b1 b2",
		},
		"then the sum of priorities": {
			pods:      []victim{{"a1", "a", "2", 5, 0, ""}, {"a2", "a", "2", 5, 0, ""}, {"b1", "b", "2", 5, 0, ""}, {"b2", "b", "2", 4, 0, ""}},
			preemptor: victim{cpu: "4", priority: 10}, want: "b: b1 b2",
		},
		"many of negative priority are not cheaper than one": {
			pods:      []victim{{"a1", "a", "2", -5, 0, ""}, {"a2", "a", "2", -5, 0, ""}, {"b1", "b", "4", -5, 0, ""}},
			preemptor: victim{cpu: "4", priority: 10}, want: "b: b1",
		},
		"at last those that run less long": {
			pods:      []victim{{"a1", "a", "4", 5, 9, ""}, {"b1", "b", "4", 5, 1, ""}},
			preemptor: victim{cpu: "4", priority: 10}, want: "b: b1",
		},
		"nodes that would not do anyway are left alone": {
			pods: []victim{{"a1", "a", "4", 1, 0, ""}, {"b1", "b", "4", 5, 0, ""}}, cordoned: "a",
			preemptor: victim{cpu: "4", priority: 10}, want: "b: b1",
		},
		"equals do not go": {
			pods:      []victim{{"a1", "a", "4", 10, 0, ""}, {"b1", "b", "3", 10, 0, ""}, {"b2", "b", "1", 1, 0, ""}},
			preemptor: victim{cpu: "4", priority: 10},
			message:   "preemption: 0/2 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod.",
		},
		"no priority is lower": {
			pods:      []victim{{"a1", "a", "4", 10, 0, ""}, {"b1", "b", "4", 11, 0, ""}},
			preemptor: victim{cpu: "4", priority: 10},
			message:   "preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.",
		},
		"more than a node has": {
			pods:      []victim{{"a1", "a", "4", 1, 0, ""}, {"b1", "b", "4", 1, 0, ""}},
			preemptor: victim{cpu: "5", priority: 10},
			message:   "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
		},
		"room that is being made for others is not there": {
			pods:      []victim{{"a1", "a", "4", 1, 9, ""}, {"b1", "b", "4", 1, 10, ""}},
			nominated: []victim{{"first", "a", "3", 10, 0, ""}},
			preemptor: victim{cpu: "2", priority: 10}, want: "b: b1",
		},
		"a pod that keeps others away goes": {
			pods:      []victim{{"a1", "a", "1", 1, 0, "aloof"}, {"b1", "b", "4", 1, 0, ""}, {"b2", "b", "0", 3, 0, ""}},
			preemptor: victim{cpu: "1", priority: 10, app: "unwanted"}, want: "a: a1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := cache.New()
			for _, name := range []string{"a", "b"} {
				n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
				n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("4"), "pods": resource.MustParse("10")}
				n.Spec.Unschedulable = name == test.cordoned
				if name == "a" || slices.ContainsFunc(test.pods, func(v victim) bool { return v.node == "b" }) {
					c.SetNode(n)
				}
			}
			for _, v := range test.pods {
				p := newPod(v)
				if v.app == "aloof" {
					p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
						TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "unwanted"}}}}}}
				}
				c.SetPod(framework.NewPodInfo(p))
			}
			for _, v := range test.nominated {
				to := v.node
				v.node = ""
				c.Nominate(framework.NewPodInfo(newPod(v)), "", to)
			}
			var mu sync.Mutex
			var evicted []string
			plugin := &defaultpreemption.Plugin{
				Budgets: func() []policyv1.PodDisruptionBudget { return test.budgets },
				Evict: func(_ context.Context, _, v *corev1.Pod, _ string) error {
					mu.Lock()
					defer mu.Unlock()
					evicted = append(evicted, v.Name)
					return nil
				},
				Start: func(int) int { return 0 }, Now: func() metav1.Time { return metav1.NewTime(start) },
				MinCandidateNodesPercentage: 10, MinCandidateNodesAbsolute: 100,
			}
			profile := &framework.Profile{Filter: []framework.FilterPlugin{nodeunschedulable.Plugin{}, noderesources.Fit{},
				&interpodaffinity.Plugin{Namespace: func(string) labels.Set { return nil }}}}
			test.preemptor.name = "preemptor"
			pod := framework.NewPodInfo(newPod(test.preemptor))
			k := class.New(profile, c, pod, 1)
			if n := k.Best(); n != nil {
				t.Fatalf("it fits on %s", n.Node.Name)
			}
			nomination, why := plugin.PostFilter(pod, trial{k, ""})
			got := ""
			if nomination != nil && nomination.Node != "" {
				if err := nomination.MakeRoom(t.Context()); err != nil {
					t.Fatal(err)
				}
				slices.Sort(evicted)
				got = nomination.Node + ": " + strings.Join(evicted, " ")
			}
			if got != test.want || why.Message() != test.message {
				t.Errorf("got %q (%s), want %q (%s)", got, why.Message(), test.want, test.message)
			}
			if k.Best() != nil {
				t.Error("trying has left a trace: now the pod fits")
			}
		})
	}
}

func TestVictimsAreAwaited(t *testing.T) {
	c := cache.New()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("4"), "pods": resource.MustParse("10")}
	c.SetNode(n)
	going := newPod(victim{"v", "a", "4", 1, 0, ""})
	now := metav1.NewTime(start)
	going.DeletionTimestamp = &now
	c.SetPod(framework.NewPodInfo(going))
	pod := framework.NewPodInfo(newPod(victim{"p", "", "2", 10, 0, ""}))
	k := class.New(&framework.Profile{Filter: []framework.FilterPlugin{noderesources.Fit{}}}, c, pod, 1)
	k.Best()
	_, why := (&defaultpreemption.Plugin{}).PostFilter(pod, trial{k, "a"})
	if why.Message() != "preemption: not eligible due to a terminating pod on the nominated node." {
		t.Errorf("got %q", why.Message())
	}
}
