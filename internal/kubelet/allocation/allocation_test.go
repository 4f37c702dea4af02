package allocation

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func requirements(cpu, memory, limit string) v1.ResourceRequirements {
	r := v1.ResourceRequirements{Requests: v1.ResourceList{
		v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory), "example.com/device": resource.MustParse("1"),
	}}
	if limit != "" {
		r.Limits = v1.ResourceList{v1.ResourceCPU: resource.MustParse(limit)}
	}
	return r
}

func pod(first, second v1.ResourceRequirements) *v1.Pod {
	return &v1.Pod{Spec: v1.PodSpec{
		InitContainers: []v1.Container{{Name: "init", Resources: first}},
		Containers:     []v1.Container{{Name: "main", Resources: second}},
	}}
}

func TestGrants(t *testing.T) {
	small, large := requirements("1", "1Gi", ""), requirements("2", "1Gi", "3")
	for _, c := range []struct {
		name           string
		granted, asked *v1.Pod
		meets          bool
	}{
		{"the same", pod(small, small), pod(small, small), true},
		{"written otherwise", pod(small, requirements("1", "1Gi", "2")), pod(small, requirements("1000m", "1024Mi", "2000m")), true},
		{"a container grows", pod(small, small), pod(small, large), false},
		{"an init container shrinks", pod(large, small), pod(small, small), false},
		{"a limit is added", pod(small, small), pod(small, requirements("1", "1Gi", "1")), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := Asked(c.granted)
			if got := g.Meets(c.asked); got != c.meets {
				t.Errorf("meets: %v", got)
			}
			applied := g.Apply(c.asked)
			if !g.Meets(applied) || (applied == c.asked) != c.meets {
				t.Errorf("applied: %+v", applied.Spec)
			}
			if Asked(c.asked).Meets(c.granted) != c.meets {
				t.Error("the pod that was asked about has changed")
			}
		})
	}
}

func TestReported(t *testing.T) {
	p := pod(requirements("1", "1Gi", ""), requirements("4", "4Gi", "8"))
	if g := Reported(p); !g.Meets(p) {
		t.Error("a pod without a status was granted what it asks for")
	}
	granted := requirements("2", "1Gi", "3")
	p.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "main", AllocatedResources: granted.Requests, Resources: &granted}}
	g := Reported(p)
	if g.Meets(p) || !g.Meets(pod(requirements("1", "1Gi", ""), granted)) {
		t.Errorf("%+v", g)
	}
	if _, kept := g.Apply(p).Spec.Containers[0].Resources.Requests["example.com/device"]; !kept {
		t.Error("other resources are lost")
	}
}
