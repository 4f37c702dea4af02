package class_test

import (
	"fmt"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

func randomNode(r *rand.Rand, i int) *corev1.Node {
	name := fmt.Sprintf("n%d", i)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, "disk": pick(r, "ssd", "hdd")}}}
	if r.IntN(8) > 0 {
		n.Labels[corev1.LabelTopologyZone] = fmt.Sprintf("z%d", r.IntN(3))
	}
	if r.IntN(3) > 0 {
		// Racks are small: often there is one node in them.
		n.Labels["rack"] = fmt.Sprintf("r%d", r.IntN(8))
	}
	n.Spec.Unschedulable = r.IntN(12) == 0
	for range r.IntN(3) {
		if r.IntN(3) == 0 {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{
				Key: pick(r, "t", "u"), Effect: pick(r, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule),
			})
		}
	}
	n.Status.Allocatable = corev1.ResourceList{
		"cpu":    *resource.NewMilliQuantity(int64(1000+1000*r.IntN(3)), resource.DecimalSI),
		"memory": *resource.NewQuantity(int64(2+r.IntN(4))<<30, resource.BinarySI),
		"pods":   *resource.NewQuantity(int64(4+r.IntN(8)), resource.DecimalSI),
	}
	if r.IntN(3) == 0 {
		n.Status.Allocatable["example.com/thing"] = *resource.NewQuantity(3, resource.DecimalSI)
	}
	for _, image := range []string{"big:1", "small:1"} {
		if r.IntN(4) == 0 {
			n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{image}, SizeBytes: int64(len(image)) * 60 << 20})
		}
	}
	return n
}

func randomRequests(r *rand.Rand) corev1.ResourceList {
	list := corev1.ResourceList{}
	if r.IntN(3) > 0 {
		list["cpu"] = *resource.NewMilliQuantity(int64(100*(1+r.IntN(5))), resource.DecimalSI)
	}
	if r.IntN(3) > 0 {
		list["memory"] = *resource.NewQuantity(int64(1+r.IntN(5))<<27, resource.BinarySI)
	}
	return list
}

// template is a random kind of pods.
func template(r *rand.Rand) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: pick(r, "x", "x", "y"), Labels: map[string]string{"app": randomApp(r), "version": pick(r, "1", "2")},
	}}
	c := corev1.Container{Name: "c", Image: pick(r, "big:1", "small:1", "other:1"), Resources: corev1.ResourceRequirements{Requests: randomRequests(r)}}
	if r.IntN(6) == 0 {
		c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80, HostIP: pick(r, "", "10.0.0.1", "10.0.0.2")}}
	}
	if r.IntN(8) == 0 {
		c.Resources.Requests["example.com/thing"] = *resource.NewQuantity(1, resource.DecimalSI)
	}
	p.Spec.Containers = []corev1.Container{c}
	if r.IntN(5) == 0 {
		init := corev1.Container{Name: "init", Image: "small:1", Resources: corev1.ResourceRequirements{Requests: randomRequests(r)}}
		if r.IntN(2) == 0 {
			always := corev1.ContainerRestartPolicyAlways
			init.RestartPolicy = &always
		}
		p.Spec.InitContainers = []corev1.Container{init}
	}
	if r.IntN(10) == 0 {
		p.Spec.Overhead = corev1.ResourceList{"cpu": resource.MustParse("50m"), "memory": resource.MustParse("32Mi")}
	}
	if r.IntN(4) == 0 {
		p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	}
	if r.IntN(3) == 0 {
		p.Labels["service"] = "yes"
	}
	if r.IntN(3) == 0 {
		p.Spec.Tolerations = []corev1.Toleration{{Key: pick(r, "t", "u"), Operator: corev1.TolerationOpExists, Effect: pick(r, "", corev1.TaintEffectPreferNoSchedule)}}
	}
	if r.IntN(3) == 0 {
		p.Spec.Affinity = &corev1.Affinity{}
		randomNodeAffinity(r, p.Spec.Affinity)
	}
	switch r.IntN(3) {
	case 0:
		for range 1 + r.IntN(2) {
			p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, randomConstraint(r, p.Labels["app"]))
		}
	case 1:
		if p.Spec.Affinity == nil {
			p.Spec.Affinity = &corev1.Affinity{}
		}
		randomPodAffinity(r, p.Spec.Affinity)
	}
	return p
}

func randomApp(r *rand.Rand) string { return fmt.Sprintf("a%d", r.IntN(3)) }

func randomKey(r *rand.Rand) string {
	return pick(r, corev1.LabelTopologyZone, corev1.LabelHostname, "rack")
}

func randomNodeAffinity(r *rand.Rand, a *corev1.Affinity) {
	term := func() corev1.NodeSelectorTerm {
		e := corev1.NodeSelectorRequirement{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{pick(r, "ssd", "hdd")}}
		if r.IntN(2) == 0 {
			e.Key, e.Values = corev1.LabelTopologyZone, []string{"z0", pick(r, "z1", "z2")}
		}
		return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{e}}
	}
	a.NodeAffinity = &corev1.NodeAffinity{}
	if r.IntN(2) == 0 {
		a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{term()}}
	}
	for range r.IntN(3) {
		a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution,
			corev1.PreferredSchedulingTerm{Weight: int32(1 + r.IntN(100)), Preference: term()})
	}
}

func randomPodAffinity(r *rand.Rand, a *corev1.Affinity) {
	term := func() corev1.PodAffinityTerm {
		t := corev1.PodAffinityTerm{TopologyKey: randomKey(r), LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": randomApp(r)}}}
		switch r.IntN(5) {
		case 0:
			t.Namespaces = []string{"y"}
		case 1:
			t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "blue"}}
		case 2:
			t.NamespaceSelector = &metav1.LabelSelector{}
		}
		return t
	}
	weighted := func() corev1.WeightedPodAffinityTerm {
		return corev1.WeightedPodAffinityTerm{Weight: int32(1 + r.IntN(99)), PodAffinityTerm: term()}
	}
	a.PodAffinity, a.PodAntiAffinity = &corev1.PodAffinity{}, &corev1.PodAntiAffinity{}
	for range 1 + r.IntN(2) {
		switch r.IntN(4) {
		case 0:
			a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, term())
		case 1:
			a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, term())
		case 2:
			a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, weighted())
		case 3:
			a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, weighted())
		}
	}
}

func randomConstraint(r *rand.Rand, app string) corev1.TopologySpreadConstraint {
	c := corev1.TopologySpreadConstraint{
		MaxSkew: int32(1 + r.IntN(2)), TopologyKey: randomKey(r), WhenUnsatisfiable: pick(r, corev1.DoNotSchedule, corev1.ScheduleAnyway),
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(r, app, app, "a0")}},
	}
	if c.WhenUnsatisfiable == corev1.DoNotSchedule && r.IntN(3) == 0 {
		domains := int32(1 + r.IntN(4))
		c.MinDomains = &domains
	}
	if r.IntN(3) == 0 {
		c.MatchLabelKeys = []string{"version", "absent"}
	}
	if r.IntN(3) == 0 {
		policy := pick(r, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		c.NodeAffinityPolicy = &policy
	}
	if r.IntN(3) == 0 {
		policy := pick(r, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		c.NodeTaintsPolicy = &policy
	}
	return c
}
