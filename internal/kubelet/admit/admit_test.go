package admit

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

func pod(edit func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{
		Name: "c", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m")}},
	}}}}
	if edit != nil {
		edit(p)
	}
	return p
}

func port(number int32, ip string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: number, HostIP: ip}}
	}
}

func TestCheck(t *testing.T) {
	node := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"disk": "ssd"}},
		Spec:       v1.NodeSpec{Taints: []v1.Taint{{Key: "gone", Effect: v1.TaintEffectNoExecute}, {Key: "full", Effect: v1.TaintEffectNoSchedule}}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{
			v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse("1Gi"), v1.ResourcePods: resource.MustParse("3"),
		}},
	}
	tolerant := func(edit func(*v1.Pod)) *v1.Pod {
		return pod(func(p *v1.Pod) {
			p.Spec.Tolerations = []v1.Toleration{{Key: "gone", Operator: v1.TolerationOpExists}}
			if edit != nil {
				edit(p)
			}
		})
	}
	request := func(name v1.ResourceName, q string) func(*v1.Pod) {
		return func(p *v1.Pod) { p.Spec.Containers[0].Resources.Requests[name] = resource.MustParse(q) }
	}
	tests := []struct {
		name    string
		pod     *v1.Pod
		others  []*v1.Pod
		reason  string
		message string
	}{
		{"fits", tolerant(nil), nil, "", ""},
		{"fits exactly", tolerant(nil), []*v1.Pod{pod(nil)}, "", ""},
		{"cpu", tolerant(nil), []*v1.Pod{pod(nil), pod(nil)}, "OutOfcpu", "Node didn't have enough resource: cpu, requested: 500, used: 1000, capacity: 1000"},
		{"memory", tolerant(request(v1.ResourceMemory, "2Gi")), nil, "OutOfmemory", "Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824"},
		{"pods", tolerant(nil), []*v1.Pod{{}, {}, {}}, "OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"},
		{"unknown extended resource", tolerant(request("example.com/gpu", "1")), nil, "OutOfexample.com/gpu", ""},
		{"selector matches", tolerant(func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }), nil, "", ""},
		{"selector", tolerant(func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "hdd"} }), nil, "NodeAffinity", ""},
		{"same port", tolerant(port(80, "")), []*v1.Pod{pod(port(80, "127.0.0.1"))}, "NodePorts", ""},
		{"other address", tolerant(port(80, "127.0.0.2")), []*v1.Pod{pod(port(80, "127.0.0.1"))}, "", ""},
		{"taint", pod(nil), nil, "TaintToleration", ""},
		{"taint, static pod", pod(func(p *v1.Pod) { p.Annotations = map[string]string{"kubernetes.io/config.source": "file"} }), nil, "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := Check(test.pod, node, test.others, klog.Logger{})
			switch {
			case got == nil && test.reason != "":
				t.Errorf("admitted, want %s", test.reason)
			case got != nil && (got.Reason != test.reason || test.message != "" && got.Message != test.message):
				t.Errorf("rejected with %+v, want %s %s", got, test.reason, test.message)
			}
		})
	}
}
