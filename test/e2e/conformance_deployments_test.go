//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
)

var deployments = []conformant{
	{"[sig-apps] Deployment Deployment should have a working scale subresource", (*space).testDeploymentScale},
	{"[sig-apps] Deployment RecreateDeployment should delete old pods and create new ones", (*space).testDeploymentRecreate},
	{"[sig-apps] Deployment RollingUpdateDeployment should delete old pods and create new ones", (*space).testDeploymentRollingUpdate},
	{"[sig-apps] Deployment deployment should delete old replica sets", (*space).testDeploymentHistoryLimit},
	{"[sig-apps] Deployment deployment should support proportional scaling", (*space).testDeploymentProportional},
	{"[sig-apps] Deployment deployment should support rollover", (*space).testDeploymentRollover},
	{"[sig-apps] Deployment should run the lifecycle of a Deployment", (*space).testDeploymentLifecycle},
	{"[sig-apps] Deployment should validate Deployment Status endpoints", (*space).testDeploymentStatus},
}

const revisionAnnotation = "deployment.kubernetes.io/revision"

// missing is the name of an image that is nowhere.
const missing = "skiff.local/missing:1"

// deployment makes a Deployment of idle pods with the label app=NAME.
func (s *space) deployment(name string, replicas int32, change func(*appsv1.Deployment)) {
	s.Helper()
	t := template(name, idle)
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: t.Labels},
		Spec:       appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: t.Labels}, Template: t},
	}
	if change != nil {
		change(d)
	}
	_, err := s.client.AppsV1().Deployments(s.ns).Create(s.Context(), d, metav1.CreateOptions{})
	s.ok(err)
}

// rolledOut waits until a Deployment has nothing left to do.
func (s *space) rolledOut(name string) *appsv1.Deployment {
	s.Helper()
	var d *appsv1.Deployment
	s.eventually(name+" is rolled out", func(ctx context.Context) (err error) {
		if d, err = s.client.AppsV1().Deployments(s.ns).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		n := *d.Spec.Replicas
		if st := d.Status; st.ObservedGeneration < d.Generation || st.UpdatedReplicas != n || st.Replicas != n || st.AvailableReplicas != n {
			return fmt.Errorf("its status is %s", text(st))
		}
		return nil
	})
	return d
}

// replicaSetsOf returns a Deployment's ReplicaSets, the oldest first.
func (s *space) replicaSetsOf(ctx context.Context, name string) ([]appsv1.ReplicaSet, error) {
	l, err := s.client.AppsV1().ReplicaSets(s.ns).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(l.Items, func(a, b appsv1.ReplicaSet) int {
		return strings.Compare(a.Annotations[revisionAnnotation], b.Annotations[revisionAnnotation])
	})
	return l.Items, nil
}

// replicaSetSizes waits until a Deployment's ReplicaSets are to have so many pods.
func (s *space) replicaSetSizes(name string, want ...int32) []appsv1.ReplicaSet {
	s.Helper()
	var sets []appsv1.ReplicaSet
	s.eventually(fmt.Sprintf("ReplicaSets of %s with %v pods", name, want), func(ctx context.Context) (err error) {
		if sets, err = s.replicaSetsOf(ctx, name); err != nil {
			return err
		}
		var sizes []int32
		for _, rs := range sets {
			sizes = append(sizes, *rs.Spec.Replicas)
		}
		if !slices.Equal(sizes, want) {
			return fmt.Errorf("they have %v", sizes)
		}
		return nil
	})
	return sets
}

func (s *space) setImage(name, image string) {
	s.Helper()
	d, err := s.client.AppsV1().Deployments(s.ns).Get(s.Context(), name, metav1.GetOptions{})
	s.ok(err)
	patch := fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":%q,"image":%q}]}}}}`, d.Spec.Template.Spec.Containers[0].Name, image)
	_, err = s.client.AppsV1().Deployments(s.ns).Patch(s.Context(), name, "application/strategic-merge-patch+json", []byte(patch), metav1.PatchOptions{})
	s.ok(err)
}

func (s *space) testDeploymentScale() {
	s.deployment("scaled", 1, nil)
	s.pods("scaled", 1, isReady)
	s.scales(deploymentsResource, "scaled")
	s.rolledOut("scaled")
}

func (s *space) testDeploymentRollingUpdate() {
	// A ReplicaSet that somebody else made, with a revision of its own.
	s.replicaSet("rolling", 1, func(rs *appsv1.ReplicaSet) {
		rs.Annotations = map[string]string{revisionAnnotation: "3546343826724305832"}
	})
	s.pods("rolling", 1, isReady)
	s.deployment("rolling", 1, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = serverImage })
	d := s.rolledOut("rolling")
	if got := d.Annotations[revisionAnnotation]; got != "3546343826724305833" {
		s.Errorf("the revision is %q", got)
	}
	s.pods("rolling", 1, func(p *corev1.Pod) bool { return isReady(p) && p.Spec.Containers[0].Image == serverImage })
	sets := s.replicaSetSizes("rolling", 0, 1)
	s.condition("the old ReplicaSet is the Deployment's", owner(&sets[0]) == "Deployment/rolling", sets[0])
	available := slices.ContainsFunc(d.Status.Conditions, func(c appsv1.DeploymentCondition) bool {
		return c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionTrue && c.Reason == "NewReplicaSetAvailable"
	})
	s.condition("the progress is complete", available, d.Status)
}

func (s *space) testDeploymentRecreate() {
	s.deployment("recreate", 1, func(d *appsv1.Deployment) { d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType })
	if got := s.rolledOut("recreate").Annotations[revisionAnnotation]; got != "1" {
		s.Errorf("the first revision is %q", got)
	}
	w := s.watch(s.of(podsResource), map[string]string{"app": "recreate"})
	s.setImage("recreate", serverImage)
	// The new pod comes after the end of the old one, which may still be there.
	ended := false
	w.until("the new pod was made", func(e watch.Event) bool {
		obj, _ := e.Object.(*unstructured.Unstructured)
		phase, _, _ := unstructured.NestedString(obj.Object, "status", "phase")
		ended = ended || e.Type == watch.Deleted || phase == string(corev1.PodFailed) || phase == string(corev1.PodSucceeded)
		return e.Type == watch.Added
	})
	if !ended {
		s.Error("a new pod was made while an old one ran")
	}
	if got := s.rolledOut("recreate").Annotations[revisionAnnotation]; got != "2" {
		s.Errorf("the second revision is %q", got)
	}
	s.replicaSetSizes("recreate", 0, 1)
}

func (s *space) testDeploymentHistoryLimit() {
	s.replicaSet("history", 1, nil)
	s.pods("history", 1, isReady)
	s.deployment("history", 1, func(d *appsv1.Deployment) {
		d.Spec.RevisionHistoryLimit = new(int32)
		d.Spec.Template.Spec.Containers[0].Image = serverImage
	})
	s.rolledOut("history")
	s.replicaSetSizes("history", 1)
	s.pods("history", 1, isReady)
}

func (s *space) testDeploymentRollover() {
	s.replicaSet("rollover", 1, nil)
	s.pods("rollover", 1, isReady)
	s.deployment("rollover", 1, func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers[0].Image = missing
		d.Spec.MinReadySeconds = 3
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxUnavailable: &intstr.IntOrString{}, MaxSurge: &intstr.IntOrString{IntVal: 1}}
	})
	// The second never comes up, and the first stays until the third has.
	s.replicaSetSizes("rollover", 1, 1)
	s.setImage("rollover", serverImage)
	s.eventually("a third ReplicaSet, and none of the second's pods are wanted", func(ctx context.Context) error {
		sets, err := s.replicaSetsOf(ctx, "rollover")
		if err == nil && (len(sets) != 3 || *sets[1].Spec.Replicas != 0) {
			err = fmt.Errorf("there are %d", len(sets))
		}
		return err
	})
	d := s.rolledOut("rollover")
	sets := s.replicaSetSizes("rollover", 0, 0, 1)
	s.condition("the Deployment's revision is that of its ReplicaSet", d.Annotations[revisionAnnotation] == sets[2].Annotations[revisionAnnotation], sets)
	for i := range sets {
		s.condition("the ReplicaSet is the Deployment's", owner(&sets[i]) == "Deployment/rollover", sets[i])
	}
}

func (s *space) testDeploymentProportional() {
	s.deployment("proportional", 10, func(d *appsv1.Deployment) {
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxUnavailable: &intstr.IntOrString{IntVal: 2}, MaxSurge: &intstr.IntOrString{IntVal: 3}}
	})
	s.rolledOut("proportional")
	s.setImage("proportional", missing)
	s.replicaSetSizes("proportional", 8, 5)
	s.eventually("8 are available", func(ctx context.Context) error {
		d, err := s.client.AppsV1().Deployments(s.ns).Get(ctx, "proportional", metav1.GetOptions{})
		if err == nil && (d.Status.AvailableReplicas != 8 || d.Status.UpdatedReplicas != 5 || d.Status.Replicas != 13 || d.Status.UnavailableReplicas != 5) {
			err = fmt.Errorf("the status is %s", text(d.Status))
		}
		return err
	})
	s.patch(deploymentsResource, "proportional", `{"spec":{"replicas":30}}`)
	sets := s.replicaSetSizes("proportional", 20, 13)
	for _, rs := range sets {
		s.condition("the ReplicaSet says how many there may be", rs.Annotations["deployment.kubernetes.io/desired-replicas"] == "30" && rs.Annotations["deployment.kubernetes.io/max-replicas"] == "33", rs.Annotations)
	}
}

func (s *space) testDeploymentLifecycle() {
	set := map[string]string{"app": "life", "test-deployment-static": "true"}
	w := s.watch(s.of(deploymentsResource), map[string]string{"test-deployment-static": "true"})
	s.deployment("life", 2, func(d *appsv1.Deployment) { d.Labels = set })
	is := func(what string, kind watch.EventType, wanted func(*unstructured.Unstructured) bool) {
		s.Helper()
		w.until(what, func(e watch.Event) bool {
			obj, ok := e.Object.(*unstructured.Unstructured)
			return ok && e.Type == kind && obj.GetName() == "life" && wanted(obj)
		})
	}
	number := func(obj *unstructured.Unstructured, path ...string) int64 {
		n, _, _ := unstructured.NestedInt64(obj.Object, path...)
		return n
	}
	is("it is made", watch.Added, func(obj *unstructured.Unstructured) bool { return number(obj, "status", "readyReplicas") == 0 })
	is("two are ready", watch.Modified, func(obj *unstructured.Unstructured) bool { return number(obj, "status", "readyReplicas") == 2 })
	s.patch(deploymentsResource, "life", `{"metadata":{"labels":{"test-deployment":"patched"}},"spec":{"replicas":1,"template":{"spec":{"terminationGracePeriodSeconds":0}}}}`)
	is("it is patched", watch.Modified, func(obj *unstructured.Unstructured) bool { return obj.GetLabels()["test-deployment"] == "patched" })
	is("one is ready", watch.Modified, func(obj *unstructured.Unstructured) bool {
		return number(obj, "status", "readyReplicas") == 1 && number(obj, "status", "observedGeneration") >= 2
	})
	s.rolledOut("life")

	list, err := s.client.AppsV1().Deployments("").List(s.Context(), metav1.ListOptions{LabelSelector: "test-deployment-static=true"})
	s.ok(err)
	s.condition("it is listed", len(list.Items) == 1 && list.Items[0].Labels["test-deployment"] == "patched", list.Items)

	s.update(deploymentsResource, "life", func(obj map[string]any) error {
		return unstructured.SetNestedField(obj, "updated", "metadata", "labels", "test-deployment")
	}, "status")
	s.condition("an update of the status changes no labels", s.field(deploymentsResource, "life", "metadata", "labels", "test-deployment") == "patched", list.Items)
	s.patch(deploymentsResource, "life", `{"spec":{"replicas":2}}`, "scale")
	is("two are ready again", watch.Modified, func(obj *unstructured.Unstructured) bool { return number(obj, "status", "readyReplicas") == 2 })

	// A status that somebody else wrote is put right.
	s.patch(deploymentsResource, "life", `{"status":{"readyReplicas":0,"availableReplicas":0}}`, "status")
	is("the patch is seen", watch.Modified, func(obj *unstructured.Unstructured) bool { return number(obj, "status", "readyReplicas") == 0 })
	is("the controller puts the status right", watch.Modified, func(obj *unstructured.Unstructured) bool { return number(obj, "status", "readyReplicas") == 2 })

	s.collection(deploymentsResource, 1, "test-deployment-static=true")
	is("it is deleted", watch.Deleted, func(*unstructured.Unstructured) bool { return true })
	s.pods("life", 0, isReady)
}

func (s *space) testDeploymentStatus() {
	s.deployment("status", 1, nil)
	s.rolledOut("status")
	s.statuses(deploymentsResource, "status", map[string]string{"app": "status"})
}
