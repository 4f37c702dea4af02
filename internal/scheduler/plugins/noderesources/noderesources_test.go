package noderesources_test

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/plugins/noderesources"
)

func list(amounts map[corev1.ResourceName]string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range amounts {
		out[name] = resource.MustParse(q)
	}
	return out
}

func pod(requests map[corev1.ResourceName]string) *framework.PodInfo {
	p := &corev1.Pod{}
	p.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: list(requests)}}}
	return framework.NewPodInfo(p)
}

func node(allocatable map[corev1.ResourceName]string, pods ...*framework.PodInfo) *framework.NodeInfo {
	n := &framework.NodeInfo{}
	o := &corev1.Node{}
	o.Status.Allocatable = list(allocatable)
	n.SetNode(o)
	for _, p := range pods {
		n.Add(p)
	}
	return n
}

type amounts = map[corev1.ResourceName]string

func TestScores(t *testing.T) {
	// Half of the CPU, a quarter of the memory and all things will be used.
	n := node(amounts{"cpu": "4", "memory": "8Gi", "pods": "10", "example.com/thing": "4"},
		pod(amounts{"cpu": "1", "memory": "1Gi", "example.com/thing": "2"}))
	p := pod(amounts{"cpu": "1", "memory": "1Gi", "example.com/thing": "2"})
	three := []noderesources.Resource{{Name: "cpu", Weight: 1}, {Name: "memory", Weight: 1}, {Name: "example.com/thing", Weight: 3}}
	rising := noderesources.Shape{{Utilization: 0, Score: 0}, {Utilization: 100, Score: 100}}
	for name, test := range map[string]struct {
		strategy noderesources.Strategy
		pod      *framework.PodInfo
		want     int64
	}{
		"least":                 {noderesources.Strategy{}, p, (50 + 75) / 2},
		"most":                  {noderesources.Strategy{Type: noderesources.MostAllocated}, p, (50 + 25) / 2},
		"least, weighted":       {noderesources.Strategy{Type: noderesources.LeastAllocated, Resources: three}, p, (50 + 75 + 3*0) / 5},
		"most, weighted":        {noderesources.Strategy{Type: noderesources.MostAllocated, Resources: three}, p, (50 + 25 + 3*100) / 5},
		"ratio":                 {noderesources.Strategy{Type: noderesources.RequestedToCapacityRatio, Shape: rising}, p, 38},
		"ratio, turned round":   {noderesources.Strategy{Type: noderesources.RequestedToCapacityRatio, Resources: three, Shape: noderesources.Shape{{Utilization: 20, Score: 100}, {Utilization: 80, Score: 0}}}, p, 71},
		"what nobody asks for":  {noderesources.Strategy{Type: noderesources.MostAllocated, Resources: three}, pod(amounts{"cpu": "1", "memory": "1Gi"}), (50 + 25) / 2},
		"nothing asked for":     {noderesources.Strategy{}, pod(nil), (72 + 85) / 2},
		"nothing of the node's": {noderesources.Strategy{Resources: []noderesources.Resource{{Name: "example.com/other", Weight: 1}}}, p, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (noderesources.Fit{Strategy: test.strategy}).PreScore(test.pod).Score(n); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
	for name, test := range map[string]struct {
		resources []noderesources.Resource
		want      int64
	}{
		"balance":                    {nil, 87},
		"balance of three resources": {three, 68},
		"balance of one":             {three[:1], 100},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (noderesources.BalancedAllocation{Resources: test.resources}).PreScore(p).Score(n); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
	if (noderesources.BalancedAllocation{}).PreScore(pod(nil)) != nil {
		t.Error("pods that ask for nothing have a balance")
	}
}

func TestFilter(t *testing.T) {
	full := node(amounts{"cpu": "2", "memory": "1Gi", "pods": "1", "example.com/thing": "2", "hugepages-2Mi": "0"},
		pod(amounts{"cpu": "1500m", "example.com/thing": "1"}))
	for name, test := range map[string]struct {
		fit  noderesources.Fit
		want amounts
		code framework.Code
		why  []string
	}{
		"room is made by going pods":  {want: amounts{"cpu": "1"}, code: framework.Unschedulable, why: []string{"Too many pods", "Insufficient cpu"}},
		"more than there is":          {want: amounts{"memory": "2Gi", "cpu": "1"}, code: framework.Unresolvable, why: []string{"Too many pods", "Insufficient cpu", "Insufficient memory"}},
		"other resources":             {want: amounts{"example.com/thing": "2", "hugepages-2Mi": "2Mi"}, code: framework.Unresolvable, why: []string{"Too many pods", "Insufficient example.com/thing", "Insufficient hugepages-2Mi"}},
		"ignored":                     {fit: noderesources.Fit{Ignored: []string{"example.com/thing"}}, want: amounts{"example.com/thing": "9"}, code: framework.Unschedulable, why: []string{"Too many pods"}},
		"ignored, by group":           {fit: noderesources.Fit{IgnoredGroups: []string{"example.com"}}, want: amounts{"example.com/thing": "9"}, code: framework.Unschedulable, why: []string{"Too many pods"}},
		"native ones are not ignored": {fit: noderesources.Fit{Ignored: []string{"cpu"}}, want: amounts{"cpu": "1"}, code: framework.Unschedulable, why: []string{"Too many pods", "Insufficient cpu"}},
	} {
		t.Run(name, func(t *testing.T) {
			rule, _ := test.fit.PreFilter(pod(test.want))
			got := rule.Filter(full)
			if got == nil || got.Code != test.code || !reflect.DeepEqual(got.Reasons, test.why) {
				t.Errorf("got %+v, want %v %q", got, test.code, test.why)
			}
		})
	}
}

func TestCures(t *testing.T) {
	f := noderesources.Fit{}
	p := pod(amounts{"cpu": "2"})
	small, large := &corev1.Node{}, &corev1.Node{}
	small.Status.Allocatable = list(amounts{"cpu": "1", "pods": "10"})
	large.Status.Allocatable = list(amounts{"cpu": "2", "pods": "10"})
	for name, test := range map[string]struct {
		event framework.Event
		want  bool
	}{
		"a node that is too small":       {framework.Event{Kind: framework.NodeAdded, Node: small}, false},
		"a large node":                   {framework.Event{Kind: framework.NodeAdded, Node: large}, true},
		"a node that grew":               {framework.Event{Kind: framework.NodeChanged, OldNode: small, Node: large}, true},
		"a node with other labels":       {framework.Event{Kind: framework.NodeChanged, OldNode: large, Node: large}, false},
		"a pod gone, room now":           {framework.Event{Kind: framework.PodGone, OldPod: p, Host: node(amounts{"cpu": "2", "pods": "2"})}, true},
		"a pod gone, still full":         {framework.Event{Kind: framework.PodGone, OldPod: p, Host: node(amounts{"cpu": "2", "pods": "2"}, pod(amounts{"cpu": "1"}))}, false},
		"a pod came":                     {framework.Event{Kind: framework.PodPlaced, Pod: p}, false},
		"a pod was resized to less":      {framework.Event{Kind: framework.PodChanged, OldPod: pod(amounts{"cpu": "2"}), Pod: pod(amounts{"cpu": "1"})}, true},
		"a pod was resized to more":      {framework.Event{Kind: framework.PodChanged, OldPod: pod(amounts{"cpu": "1"}), Pod: pod(amounts{"cpu": "2"})}, false},
		"labels of a namespace changed ": {framework.Event{Kind: framework.NamespaceChanged}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := f.Cures(p, test.event); got != test.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
