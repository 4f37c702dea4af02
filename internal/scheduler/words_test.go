package scheduler_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestReasonsInUpstreamsWords has, for each kind of pod, one node that is not
// good enough for it. Each is cured afterwards, and then bound.
func TestReasonsInUpstreamsWords(t *testing.T) {
	c := start(t)
	const unhelpful = " no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
	const noVictims = " no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
	app := map[string]string{"app": "there"}
	selector := &metav1.LabelSelector{MatchLabels: app}
	term := []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelHostname, LabelSelector: selector}}
	port := func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080}}
	}
	node(t, c, "a")
	create(t, c, pod("there", port, func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": "there", "spread": "yes"}
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "unwanted"}}}}}}
	}))
	bound(t, c, "there")
	for _, test := range []struct {
		name, message string
		change        func(*corev1.Pod)
	}{
		{"selector", "1 node(s) didn't match Pod's node affinity/selector." + unhelpful, func(p *corev1.Pod) {
			p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
		}},
		{"ports", "1 node(s) didn't have free ports for the requested pod ports." + noVictims, port},
		{"apart", "1 node(s) didn't match pod anti-affinity rules." + noVictims, func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: term}}
		}},
		{"unwanted", "1 node(s) didn't satisfy existing pods anti-affinity rules." + noVictims, func(p *corev1.Pod) {
			p.Labels = map[string]string{"app": "unwanted"}
		}},
		{"skewed", "1 node(s) didn't match pod topology spread constraints." + noVictims, func(p *corev1.Pod) {
			two := int32(2)
			p.Labels = map[string]string{"spread": "yes"}
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelHostname,
				WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels}, MinDomains: &two}}
		}},
		{"nowhere", "1 node(s) didn't match pod topology spread constraints (missing required label)." + unhelpful, func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "rack",
				WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: selector}}
		}},
		{"alone", "1 node(s) didn't match pod affinity rules." + unhelpful, func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
				TopologyKey: "rack", LabelSelector: selector}}}}
		}},
		{"named", "1 node(s) didn't satisfy plugin(s) [NodeAffinity]." + unhelpful, func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{
					Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{"b"}}}}}}}}
		}},
	} {
		create(t, c, pod(test.name, test.change))
		unschedulable(t, c, test.name, "0/1 nodes are available: "+test.message)
	}
	// Another node is good enough for all of them.
	node(t, c, "b", func(n *corev1.Node) { n.Labels["disk"] = "ssd" })
	for _, name := range []string{"selector", "apart", "unwanted", "skewed", "named", "ports"} {
		if got := bound(t, c, name); got != "b" {
			t.Errorf("%s is on %q", name, got)
		}
	}
	n := &corev1.Node{}
	if err := c.Client.Get(context.Background(), client.ObjectKey{Name: "a"}, n); err != nil {
		t.Fatal(err)
	}
	n.Labels["rack"] = "1"
	if err := c.Client.Update(context.Background(), n); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nowhere", "alone"} {
		if got := bound(t, c, name); got != "a" {
			t.Errorf("%s is on %q", name, got)
		}
	}
}

func TestCordonedNodes(t *testing.T) {
	c := start(t)
	node(t, c, "a", func(n *corev1.Node) { n.Spec.Unschedulable = true })
	n := &corev1.Node{}
	if err := c.Client.Get(context.Background(), client.ObjectKey{Name: "a"}, n); err != nil {
		t.Fatal(err)
	}
	// Cordoning sets the field alone; a controller adds the taint.
	n.Spec.Unschedulable, n.Spec.Taints = true, nil
	if err := c.Client.Update(context.Background(), n); err != nil {
		t.Fatal(err)
	}
	create(t, c, pod("p"))
	unschedulable(t, c, "p", "0/1 nodes are available: 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
	n.Spec.Unschedulable = false
	if err := c.Client.Update(context.Background(), n); err != nil {
		t.Fatal(err)
	}
	bound(t, c, "p")
}
