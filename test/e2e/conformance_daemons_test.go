//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var daemonSets = []conformant{
	{"[sig-apps] ControllerRevision [Serial] should manage the lifecycle of a ControllerRevision", (*space).testControllerRevision},
	{"[sig-apps] Daemon set [Serial] should list and delete a collection of DaemonSets", (*space).testDaemonSetCollection},
	{"[sig-apps] Daemon set [Serial] should retry creating failed daemon pods", (*space).testDaemonSetRetry},
	{"[sig-apps] Daemon set [Serial] should rollback without unnecessary restarts", (*space).testDaemonSetRollback},
	{"[sig-apps] Daemon set [Serial] should run and stop complex daemon", (*space).testDaemonSetNodeSelector},
	{"[sig-apps] Daemon set [Serial] should run and stop simple daemon", (*space).testDaemonSetSimple},
	{"[sig-apps] Daemon set [Serial] should update pod when spec was updated and update strategy is RollingUpdate", (*space).testDaemonSetUpdate},
	{"[sig-apps] Daemon set [Serial] should verify changes to a daemon set status", (*space).testDaemonSetStatus},
}

// daemonSet makes a DaemonSet of idle pods with the label app=NAME.
func (s *space) daemonSet(name string, change func(*appsv1.DaemonSet)) {
	s.Helper()
	t := template(name, idle)
	d := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: t.Labels},
		Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: t.Labels}, Template: t},
	}
	if change != nil {
		change(d)
	}
	_, err := s.client.AppsV1().DaemonSets(s.ns).Create(s.Context(), d, metav1.CreateOptions{})
	s.ok(err)
}

// onEveryNode waits until a DaemonSet is complete, and returns its pods by node.
func (s *space) onEveryNode(name string, wanted func(*corev1.Pod) bool) map[string]corev1.Pod {
	s.Helper()
	byNode := map[string]corev1.Pod{}
	for _, p := range s.pods(name, nodes, func(p *corev1.Pod) bool { return isReady(p) && wanted(p) }) {
		byNode[p.Spec.NodeName] = p
	}
	s.condition("each node has one", len(byNode) == nodes, slices.Collect(maps.Keys(byNode)))
	s.eventually("the status says so", func(ctx context.Context) error {
		d, err := s.client.AppsV1().DaemonSets(s.ns).Get(ctx, name, metav1.GetOptions{})
		st := d.Status
		if err == nil && (st.DesiredNumberScheduled != nodes || st.CurrentNumberScheduled != nodes || st.NumberReady != nodes || st.NumberMisscheduled != 0 || st.ObservedGeneration != d.Generation) {
			err = fmt.Errorf("the status is %s", text(st))
		}
		return err
	})
	return byNode
}

func any1(*corev1.Pod) bool { return true }

func (s *space) setDaemonImage(name, image string) {
	s.Helper()
	_, err := s.of(daemonSetsResource).Patch(s.Context(), name, types.JSONPatchType,
		fmt.Appendf(nil, `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":%q}]`, image), metav1.PatchOptions{})
	s.ok(err)
}

func (s *space) testDaemonSetSimple() {
	s.daemonSet("simple", nil)
	pods := s.onEveryNode("simple", any1)
	old := pods[s.node(1)]
	s.deletePod(old.Name)
	s.onEveryNode("simple", func(p *corev1.Pod) bool { return p.UID != old.UID })
}

func (s *space) testDaemonSetNodeSelector() {
	key := "daemon-of-" + s.ns
	color := func(node int, value string) {
		s.Helper()
		_, err := s.client.CoreV1().Nodes().Patch(s.Context(), s.node(node), types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{%q:%s}}}`, key, value), metav1.PatchOptions{})
		s.ok(err)
	}
	s.daemonSet("complex", func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.NodeSelector = map[string]string{key: "blue"} })
	s.becomes(daemonSetsResource, "complex", int64(1), "status", "observedGeneration")
	s.pods("complex", 0, isReady)
	color(1, `"blue"`)
	on := s.pods("complex", 1, isReady)
	s.condition("it is on the node with the label", on[0].Spec.NodeName == s.node(1), on[0].Spec)
	color(1, `"green"`)
	s.pods("complex", 0, isReady)
	s.patch(daemonSetsResource, "complex", fmt.Sprintf(`{"spec":{"template":{"spec":{"nodeSelector":{%q:"green"}}},"updateStrategy":{"type":"RollingUpdate"}}}`, key))
	s.pods("complex", 1, isReady)
	color(1, "null")
	s.pods("complex", 0, isReady)
}

func (s *space) testDaemonSetRetry() {
	s.daemonSet("retry", nil)
	p := s.onEveryNode("retry", any1)[s.node(2)]
	p.ResourceVersion = ""
	p.Status.Phase = corev1.PodFailed
	_, err := s.client.CoreV1().Pods(s.ns).UpdateStatus(s.Context(), &p, metav1.UpdateOptions{})
	s.ok(err)
	s.gone(p.Name)
	s.onEveryNode("retry", func(n *corev1.Pod) bool { return n.UID != p.UID })
}

func (s *space) testDaemonSetUpdate() {
	s.daemonSet("update", func(d *appsv1.DaemonSet) { d.Spec.UpdateStrategy.Type = appsv1.RollingUpdateDaemonSetStrategyType })
	hash := func(p corev1.Pod) string { return p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] }
	pods := s.onEveryNode("update", any1)
	first := hash(pods[s.node(1)])
	revisions := func(want ...int64) {
		s.Helper()
		l, err := s.client.AppsV1().ControllerRevisions(s.ns).List(s.Context(), metav1.ListOptions{LabelSelector: "app=update"})
		s.ok(err)
		var got []int64
		for _, r := range l.Items {
			got = append(got, r.Revision)
			s.condition("the revision is the DaemonSet's, with the pods' hash", owner(&r) == "DaemonSet/update" && r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] != "", r.ObjectMeta)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			s.Errorf("the revisions are %v, not %v", got, want)
		}
	}
	revisions(1)
	s.setDaemonImage("update", serverImage)
	for _, p := range s.onEveryNode("update", func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == serverImage }) {
		s.condition("the pod has another hash", hash(p) != first && hash(p) != "", p.Labels)
	}
	revisions(1, 2)
}

func (s *space) testDaemonSetRollback() {
	s.daemonSet("back", func(d *appsv1.DaemonSet) { d.Spec.UpdateStrategy.Type = appsv1.RollingUpdateDaemonSetStrategyType })
	before := s.onEveryNode("back", any1)
	image := before[s.node(1)].Spec.Containers[0].Image
	s.setDaemonImage("back", missing)
	s.eventually("one pod is updated", func(ctx context.Context) error {
		pods, err := s.list(ctx, "back")
		if err == nil && !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Spec.Containers[0].Image == missing }) {
			err = fmt.Errorf("none of %d", len(pods))
		}
		return err
	})
	s.setDaemonImage("back", image)
	after := s.onEveryNode("back", func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == image })
	kept := 0
	for node, p := range after {
		if p.UID == before[node].UID {
			kept++
			s.condition("the pod was not restarted", p.Status.ContainerStatuses[0].RestartCount == 0, p.Status)
		}
	}
	if kept != nodes-1 {
		s.Errorf("%d pods stayed, not %d", kept, nodes-1)
	}
}

func (s *space) testDaemonSetCollection() {
	s.daemonSet("collected", nil)
	s.onEveryNode("collected", any1)
	s.collection(daemonSetsResource, 1, "app=collected")
	s.pods("collected", 0, any1)
}

func (s *space) testDaemonSetStatus() {
	s.daemonSet("status", nil)
	s.onEveryNode("status", any1)
	s.statuses(daemonSetsResource, "status", map[string]string{"app": "status"})
}

func (s *space) testControllerRevision() {
	s.daemonSet("revised", nil)
	s.onEveryNode("revised", any1)
	revisions := s.client.AppsV1().ControllerRevisions(s.ns)
	count := func(want int) []appsv1.ControllerRevision {
		s.Helper()
		var got []appsv1.ControllerRevision
		s.eventually(fmt.Sprintf("there are %d revisions", want), func(ctx context.Context) error {
			l, err := s.client.AppsV1().ControllerRevisions("").List(ctx, metav1.ListOptions{LabelSelector: "app=revised"})
			if got = l.Items; err == nil && len(got) != want {
				err = fmt.Errorf("there are %s", text(got))
			}
			return err
		})
		return got
	}
	first := count(1)[0]
	s.condition("the revision is the DaemonSet's", owner(&first) == "DaemonSet/revised", first)
	patched, err := revisions.Patch(s.Context(), first.Name, types.StrategicMergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{%q:"patched"}}}`, first.Name), metav1.PatchOptions{})
	s.ok(err)
	s.condition("the label is patched", patched.Labels[first.Name] == "patched", patched.Labels)

	second := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Name: "revised-by-hand", OwnerReferences: first.OwnerReferences,
			Labels: map[string]string{"app": "revised", appsv1.DefaultDaemonSetUniqueLabelKey: "by-hand"},
		},
		Data: first.Data, Revision: first.Revision + 1,
	}
	_, err = revisions.Create(s.Context(), second, metav1.CreateOptions{})
	s.ok(err)
	count(2)
	s.ok(revisions.Delete(s.Context(), first.Name, metav1.DeleteOptions{}))
	current := count(1)[0]
	current.Labels[current.Name] = "updated"
	updated, err := revisions.Update(s.Context(), &current, metav1.UpdateOptions{})
	s.ok(err)
	s.condition("the label is updated", updated.Labels[current.Name] == "updated", updated.Labels)

	s.patch(daemonSetsResource, "revised", `{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":0}}}}`)
	count(2)
	s.ok(revisions.DeleteCollection(s.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: current.Name + "=updated"}))
	last := count(1)[0]
	s.condition("the last revision is the third", last.Revision == 3, last)
}
