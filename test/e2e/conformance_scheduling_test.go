//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

var preemption = []conformant{
	{"[sig-scheduling] SchedulerPreemption [Serial] PreemptionExecutionPath runs ReplicaSets to verify preemption running path", (*space).testPreemptionPath},
	{"[sig-scheduling] SchedulerPreemption [Serial] PriorityClass endpoints verify PriorityClass endpoints can be operated with different HTTP methods", (*space).testPriorityClasses},
	{"[sig-scheduling] SchedulerPreemption [Serial] validates basic preemption works", (*space).testPreemption},
	{"[sig-scheduling] SchedulerPreemption [Serial] validates lower priority pod preemption by critical pod", (*space).testPreemptionByCritical},
	{"[sig-scheduling] SchedulerPreemption [Serial] validates pod disruption condition is added to the preempted pod", (*space).testPreemptionCondition},
}

var predicates = []conformant{
	{"[sig-scheduling] LimitRange should create a LimitRange with defaults and ensure pod has those defaults applied.", (*space).testLimitRange},
	{"[sig-scheduling] LimitRange should list, patch and delete a LimitRange by collection", (*space).testLimitRangeCollection},
	{"[sig-scheduling] SchedulerPredicates [Serial] validates resource limits of pods that are allowed to run", (*space).testFit},
	{"[sig-scheduling] SchedulerPredicates [Serial] validates that NodeSelector is respected if matching", (*space).testSelectorMatches},
	{"[sig-scheduling] SchedulerPredicates [Serial] validates that NodeSelector is respected if not matching", (*space).testSelectorDoesNotMatch},
	{"[sig-scheduling] SchedulerPredicates [Serial] validates that there exists conflict between pods with same hostPort and protocol but one using 0.0.0.0 hostIP", (*space).testHostPortConflict},
	{"[sig-network] HostPort validates that there is no conflict between pods with same hostPort but different hostIP and protocol [LinuxOnly]", (*space).testHostPorts},
}

// extended gives nodes an amount of a resource of the test's own, which it returns.
func (s *space) extended(amount string, on ...string) corev1.ResourceName {
	s.Helper()
	name := corev1.ResourceName("example.com/" + s.ns)
	for _, node := range on {
		_, err := s.client.CoreV1().Nodes().Patch(s.Context(), node, types.MergePatchType,
			fmt.Appendf(nil, `{"status":{"capacity":{%[1]q:%[2]q},"allocatable":{%[1]q:%[2]q}}}`, name, amount), metav1.PatchOptions{}, "status")
		s.ok(err)
		s.eventually("the node has "+string(name), func(ctx context.Context) error {
			n, err := s.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
			if got := n.Status.Allocatable[name]; err == nil && got.String() != amount {
				err = fmt.Errorf("allocatable is %s", text(n.Status.Allocatable))
			}
			return err
		})
	}
	return name
}

// priority makes a PriorityClass and returns its name.
func (s *space) priority(name string, value int32) string {
	s.Helper()
	name = s.ns + "-" + name
	_, err := s.client.SchedulingV1().PriorityClasses().Create(s.Context(), &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value}, metav1.CreateOptions{})
	s.ok(err)
	s.Cleanup(func() {
		if err := s.client.SchedulingV1().PriorityClasses().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			s.Error(err)
		}
	})
	return name
}

// claiming is a template of a pod that needs so much of a resource.
func claiming(app string, name corev1.ResourceName, amount, priority, node string) corev1.PodTemplateSpec {
	t := template(app, idle)
	t.Spec.PriorityClassName = priority
	needs(&t, name, amount)
	if node != "" {
		t.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	}
	return t
}

func needs(t *corev1.PodTemplateSpec, name corev1.ResourceName, amount string) {
	list := corev1.ResourceList{name: resource.MustParse(amount)}
	t.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list, Limits: list}
}

// unschedulable waits until the scheduler says that it has no node for a pod.
func (s *space) unschedulable(name string, words ...string) {
	s.Helper()
	s.podThat(name, fmt.Sprintf("is unschedulable because of %q", words), func(p *corev1.Pod) bool {
		return p.Spec.NodeName == "" && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable &&
				!slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(c.Message, w) })
		})
	})
	s.eventually("an event says so", func(ctx context.Context) error {
		events, err := s.client.CoreV1().Events(s.ns).List(ctx, metav1.ListOptions{FieldSelector: "reason=FailedScheduling,involvedObject.name=" + name})
		if err == nil && len(events.Items) == 0 {
			err = fmt.Errorf("there is none")
		}
		return err
	})
}

// fillNodes runs two pods on each node, which has room for no third: the first
// pod of all has the low priority, the others the medium one.
func (s *space) fillNodes(low, medium string) corev1.ResourceName {
	s.Helper()
	name := s.extended("5", s.node(1), s.node(2), s.node(3))
	for i := range 2 * nodes {
		priority := medium
		if i == 0 {
			priority = low
		}
		s.createPod(fmt.Sprintf("pod-%d", i), claiming("fill", name, "2", priority, s.node(i/2+1)))
	}
	s.pods("fill", 2*nodes, isReady)
	return name
}

// onlyFirstGoes waits until the first of fillNodes's pods is gone, and demands
// that the others stay.
func (s *space) onlyFirstGoes() {
	s.Helper()
	s.gone("pod-0")
	s.pods("fill", 2*nodes-1, isReady)
}

func (s *space) testPreemption() {
	low, medium, high := s.priority("low", 1), s.priority("medium", 100), s.priority("high", 1000)
	name := s.fillNodes(low, medium)
	p := s.startPod("preemptor", claiming("preemptor", name, "2", high, ""))
	s.condition("it runs where the first pod was", p.Spec.NodeName == s.node(1), p)
	s.onlyFirstGoes()
}

func (s *space) testPreemptionByCritical() {
	low, medium := s.priority("low", 1), s.priority("medium", 100)
	name := s.fillNodes(low, medium)
	// Critical pods are allowed in this namespace wherever quotas restrict them.
	system := *s
	system.ns = metav1.NamespaceSystem
	critical := "critical-" + s.ns
	s.Cleanup(func() {
		if err := s.client.CoreV1().Pods(system.ns).Delete(context.Background(), critical, metav1.DeleteOptions{}); err != nil {
			s.Error(err)
		}
	})
	system.startPod(critical, claiming(critical, name, "2", "system-cluster-critical", ""))
	s.onlyFirstGoes()
}

func (s *space) testPreemptionCondition() {
	low, high := s.priority("low", 1), s.priority("high", 1000)
	name := s.extended("1", s.node(2))
	t := claiming("victim", name, "1", low, "")
	t.Finalizers = []string{"example.com/test-finalizer"}
	s.startPod("victim", t)
	s.createPod("preemptor", claiming("preemptor", name, "1", high, ""))
	s.podThat("victim", "is preempted and says so", func(p *corev1.Pod) bool {
		return p.DeletionTimestamp != nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
		})
	})
	s.updatePod("victim", func(p *corev1.Pod) { p.Finalizers = nil })
	s.ready("preemptor")
}

func (s *space) testPreemptionPath() {
	name := s.extended("1k", s.node(3))
	w := s.watch(s.of(podsResource), nil)
	made := map[string]int{}
	for i, amount := range []string{"200", "300", "450"} {
		rs := fmt.Sprintf("rs-%d", i+1)
		s.replicaSet(rs, 1, func(r *appsv1.ReplicaSet) {
			needs(&r.Spec.Template, name, amount)
			r.Spec.Template.Spec.PriorityClassName = s.priority(rs, int32(i+1))
		})
		s.pods(rs, 1, isReady)
	}
	s.replicaSet("rs-4", 1, func(r *appsv1.ReplicaSet) {
		needs(&r.Spec.Template, name, "500")
		r.Spec.Template.Spec.PriorityClassName = s.priority("rs-4", 4)
	})
	s.pods("rs-4", 1, isReady)
	// The two least ones made room, and their replacements wait.
	w.until("both replacements are made", func(e watch.Event) bool {
		if obj, _ := e.Object.(*unstructured.Unstructured); e.Type == watch.Added {
			made[obj.GetLabels()["app"]]++
		}
		return made["rs-1"] == 2 && made["rs-2"] == 2
	})
	s.condition("the third was left alone", made["rs-3"] == 1, made)
	for _, rs := range []string{"rs-1", "rs-2"} {
		p := s.pods(rs, 1, func(p *corev1.Pod) bool { return p.DeletionTimestamp == nil && p.Spec.NodeName == "" })[0]
		s.unschedulable(p.Name, "Insufficient "+string(name))
	}
	s.pods("rs-3", 1, isReady)
}

func (s *space) testPriorityClasses() {
	one, two := s.priority("one", 1), s.priority("two", 2)
	classes := s.client.SchedulingV1().PriorityClasses()
	list, err := classes.List(s.Context(), metav1.ListOptions{})
	s.ok(err)
	for _, name := range []string{one, two} {
		s.condition(name+" is listed", slices.ContainsFunc(list.Items, func(p schedulingv1.PriorityClass) bool { return p.Name == name }), list)
	}
	p, err := classes.Get(s.Context(), one, metav1.GetOptions{})
	s.ok(err)
	p.Description = "updated"
	p, err = classes.Update(s.Context(), p, metav1.UpdateOptions{})
	s.ok(err)
	p.Value *= 10
	_, err = classes.Update(s.Context(), p, metav1.UpdateOptions{})
	s.condition("the value may not be updated", apierrors.IsInvalid(err) && strings.Contains(err.Error(), "may not be changed in an update"), err)
	p, err = classes.Patch(s.Context(), two, types.StrategicMergePatchType, []byte(`{"description":"patched"}`), metav1.PatchOptions{})
	s.ok(err)
	s.condition("the description is patched", p.Description == "patched" && p.Value == 2, p)
	_, err = classes.Patch(s.Context(), two, types.JSONPatchType, []byte(`[{"op":"replace","path":"/value","value":20}]`), metav1.PatchOptions{})
	s.condition("the value may not be patched", apierrors.IsInvalid(err), err)
}

func (s *space) testSelectorMatches() {
	key := "selected-by-" + s.ns
	_, err := s.client.CoreV1().Nodes().Patch(s.Context(), s.node(2), types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{%q:"42"}}}`, key), metav1.PatchOptions{})
	s.ok(err)
	t := template("selecting", idle)
	t.Spec.NodeSelector = map[string]string{key: "42"}
	p := s.startPod("selecting", t)
	s.condition("it is on the node with the label", p.Spec.NodeName == s.node(2), p.Spec)
}

func (s *space) testSelectorDoesNotMatch() {
	t := template("lost", idle)
	t.Spec.NodeSelector = map[string]string{"label": "nonempty"}
	s.createPod("lost", t)
	s.unschedulable("lost", "0/3 nodes are available", "didn't match Pod's node affinity/selector")
}

// What a node has is shared out: what is left is not enough for another pod.
func (s *space) testFit() {
	list, err := s.client.CoreV1().Nodes().List(s.Context(), metav1.ListOptions{})
	s.ok(err)
	fill := func(app, node string, quantity *resource.Quantity, percent int64) string {
		s.Helper()
		name := app + "-" + node
		t := claiming(app, corev1.ResourceCPU, fmt.Sprintf("%dm", quantity.MilliValue()*percent/100), "", node)
		s.createPod(name, t)
		return name
	}
	for _, n := range list.Items {
		fill("filler", n.Name, n.Status.Allocatable.Cpu(), 60)
	}
	s.pods("filler", nodes, isReady)
	t := claiming("more", corev1.ResourceCPU, fmt.Sprintf("%dm", list.Items[0].Status.Allocatable.Cpu().MilliValue()*50/100), "", "")
	s.createPod("more", t)
	s.unschedulable("more", "0/3 nodes are available", "3 Insufficient cpu", "preemption")
}

func hostPort(app, node, ip string, protocol corev1.Protocol, port int32) corev1.PodTemplateSpec {
	t := template(app, idle)
	t.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	t.Spec.Containers[0].Image, t.Spec.Containers[0].Command = serverImage, []string{"testserver", "http:8080", "udp:8080"}
	t.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: port, HostIP: ip, Protocol: protocol}}
	return t
}

func (s *space) testHostPortConflict() {
	s.startPod("all", hostPort("all", s.node(2), "0.0.0.0", corev1.ProtocolTCP, 54322))
	s.createPod("one", hostPort("one", s.node(2), "127.0.0.1", corev1.ProtocolTCP, 54322))
	s.unschedulable("one", "didn't have free ports for the requested pod ports")
}

func (s *space) testHostPorts() {
	const port = 54323
	node := s.node(2)
	n, err := s.client.CoreV1().Nodes().Get(s.Context(), node, metav1.GetOptions{})
	s.ok(err)
	ip := n.Status.Addresses[0].Address
	s.startPod("local", hostPort("local", node, "127.0.0.1", corev1.ProtocolTCP, port))
	s.startPod("tcp", hostPort("tcp", node, ip, corev1.ProtocolTCP, port))
	s.startPod("udp", hostPort("udp", node, ip, corev1.ProtocolUDP, port))
	t := template("client", idle)
	t.Spec.HostNetwork, t.Spec.NodeName = true, node
	t.Spec.Containers[0].Image = serverImage
	s.startPod("client", t)
	for script, want := range map[string]string{
		fmt.Sprintf("timeout 5 wget -qO- http://127.0.0.1:%d/hostname", port): "local",
		fmt.Sprintf("timeout 5 wget -qO- http://%s:%d/hostname", ip, port):    "tcp",
		fmt.Sprintf("testserver ask:%s:%d", ip, port):                         "udp",
	} {
		s.eventually(script, func(context.Context) error {
			got, err := s.exec("client", script)
			if err == nil && got != want {
				err = fmt.Errorf("the answer is %q, not %q", got, want)
			}
			return err
		})
	}
}

func (s *space) testLimitRange() {
	quantities := func(cpu, memory, storage string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory), corev1.ResourceEphemeralStorage: resource.MustParse(storage)}
	}
	ranges := s.client.CoreV1().LimitRanges(s.ns)
	w := s.watch(s.of(corev1.SchemeGroupVersion.WithResource("limitranges")), map[string]string{"time": s.ns})
	l, err := ranges.Create(s.Context(), &corev1.LimitRange{
		ObjectMeta: metav1.ObjectMeta{Name: "limits", Labels: map[string]string{"time": s.ns}},
		Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
			Type: corev1.LimitTypeContainer,
			Min:  quantities("50m", "100Mi", "100Gi"), Max: quantities("500m", "500Mi", "500Gi"),
			Default: quantities("500m", "500Mi", "500Gi"), DefaultRequest: quantities("100m", "200Mi", "200Gi"),
			MaxLimitRequestRatio: corev1.ResourceList{},
		}}},
	}, metav1.CreateOptions{})
	s.ok(err)
	w.until("it is made", func(e watch.Event) bool { return e.Type == watch.Added })
	// Pods that only have to be admitted ask for a node that is not there.
	pod := func(name string, requests, limits corev1.ResourceList) (*corev1.Pod, error) {
		t := template("limited", idle)
		t.Spec.NodeSelector = map[string]string{"nowhere": "true"}
		t.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
		return s.client.CoreV1().Pods(s.ns).Create(s.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: t.Spec}, metav1.CreateOptions{})
	}
	has := func(p *corev1.Pod, requests, limits corev1.ResourceList) {
		s.Helper()
		got := p.Spec.Containers[0].Resources
		for name := range requests {
			r, l := got.Requests[name], got.Limits[name]
			if r.Cmp(requests[name]) != 0 || l.Cmp(limits[name]) != 0 {
				s.Errorf("%s of %s: %s and %s", name, p.Name, r.String(), l.String())
			}
		}
	}
	p, err := pod("plain", nil, nil)
	s.ok(err)
	has(p, quantities("100m", "200Mi", "200Gi"), quantities("500m", "500Mi", "500Gi"))
	p, err = pod("partial", corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("150Mi"), corev1.ResourceEphemeralStorage: resource.MustParse("150Gi")},
		corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("300m")})
	s.ok(err)
	// A limit without a request is a request, as for any pod.
	has(p, quantities("300m", "150Mi", "150Gi"), quantities("300m", "500Mi", "500Gi"))
	_, err = pod("little", quantities("10m", "50Mi", "50Gi"), nil)
	s.condition("less than the least is refused", apierrors.IsForbidden(err), err)
	much := quantities("600m", "600Mi", "600Gi")
	_, err = pod("much", much, much)
	s.condition("more than the most is refused", apierrors.IsForbidden(err), err)

	l.Spec.Limits[0].Min = quantities("9m", "49Mi", "49Gi")
	l, err = ranges.Update(s.Context(), l, metav1.UpdateOptions{})
	s.ok(err)
	s.condition("it is updated", l.Spec.Limits[0].Min.Cpu().String() == "9m", l)
	_, err = pod("little", quantities("10m", "50Mi", "50Gi"), nil)
	s.ok(err)
	_, err = pod("much", much, much)
	s.condition("more than the most is still refused", apierrors.IsForbidden(err), err)
	s.ok(ranges.Delete(s.Context(), "limits", metav1.DeleteOptions{}))
	w.until("it is deleted", func(e watch.Event) bool { return e.Type == watch.Deleted })
	_, err = pod("much", much, much)
	s.ok(err)
}

func (s *space) testLimitRangeCollection() {
	resource := corev1.SchemeGroupVersion.WithResource("limitranges")
	other := s.testCluster.space(s.ns + "-other")
	for _, in := range []*space{s, other} {
		in.create(`
apiVersion: v1
kind: LimitRange
metadata: {name: limits, labels: {limits: ` + s.ns + `}}
spec: {limits: [{type: Container, defaultRequest: {cpu: 50m}, default: {cpu: 500m}}]}
`)
	}
	list, err := s.dynamic.Resource(resource).List(s.Context(), metav1.ListOptions{LabelSelector: "limits=" + s.ns})
	s.ok(err)
	s.condition("both are listed", len(list.Items) == 2, list)
	s.patch(resource, "limits", `{"metadata":{"labels":{"limits":"patched-`+s.ns+`"}},"spec":{"limits":[{"type":"Container","defaultRequest":{"cpu":"50m"},"default":{"cpu":"400m"},"max":{"cpu":"1"}}]}}`)
	var l corev1.LimitRange
	s.get(resource, "limits", &l)
	s.condition("it is patched", l.Spec.Limits[0].Default.Cpu().String() == "400m" && l.Labels["limits"] == "patched-"+s.ns, l)
	s.collection(resource, 1, "limits=patched-"+s.ns)
	list, err = s.dynamic.Resource(resource).List(s.Context(), metav1.ListOptions{LabelSelector: "limits=" + s.ns})
	s.ok(err)
	s.condition("the other one stays", len(list.Items) == 1, list)
}
