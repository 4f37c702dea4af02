package namespace_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/namespace"
)

const finalizer = "example.com/wait"

// TestPodsGoFirst deletes a namespace whose pod stays, then one whose other
// content does.
func TestPodsGoFirst(t *testing.T) {
	c := controllertest.Start(t)
	c.Run("namespace-controller", func(d controller.Deps) (controller.Runnable, error) { return namespace.New(d, c.Discover) })
	c.Namespace("team")
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "slow", Finalizers: []string{finalizer}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "web:1"}}},
	}
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "config", Finalizers: []string{finalizer}}}
	c.Create(pod, config)
	ns := controllertest.Get(c, "", "team", &corev1.Namespace{})
	c.Delete(ns.DeepCopy())
	waitFor := func(resource string) {
		t.Helper()
		want := map[corev1.NamespaceConditionType]string{
			corev1.NamespaceContentRemaining:         "SomeResourcesRemain: Some resources are remaining: " + resource + " has 1 resource instances",
			corev1.NamespaceFinalizersRemaining:      "SomeFinalizersRemain: Some content in the namespace has finalizers remaining: " + finalizer + " in 1 resource instances",
			corev1.NamespaceDeletionContentFailure:   "ContentDeleted: All content successfully deleted, may be waiting on finalization",
			corev1.NamespaceDeletionDiscoveryFailure: "ResourcesDiscovered: All resources successfully discovered",
		}
		c.Eventually(resource+" remains", &corev1.NamespaceList{}, func() bool {
			found := 0
			for _, condition := range controllertest.Get(c, "", "team", ns).Status.Conditions {
				if want[condition.Type] == condition.Reason+": "+condition.Message {
					found++
				}
			}
			return found == len(want)
		})
	}
	waitFor("pods.")
	if controllertest.Get(c, "team", "slow", pod).DeletionTimestamp == nil || controllertest.Get(c, "team", "config", config).DeletionTimestamp != nil {
		t.Error("other content is deleted before the pods are gone")
	}
	controllertest.Change(c, pod, func(p *corev1.Pod) { p.Finalizers = nil })
	waitFor("configmaps.")
	controllertest.Change(c, config, func(m *corev1.ConfigMap) { m.Finalizers = nil })
	c.Eventually("the end of the namespace", &corev1.NamespaceList{}, func() bool {
		return apierrors.IsNotFound(c.Client.Get(context.Background(), client.ObjectKey{Name: "team"}, ns))
	})
}
