package replicationcontroller_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/replicationcontroller"
	"skiff/internal/controllers/resourcequota"
)

var labels = map[string]string{"app": "web"}

func start(t *testing.T) *controllertest.Cluster {
	t.Helper()
	c := controllertest.Start(t)
	c.Run("replication-controller", replicationcontroller.New)
	c.Kubelet()
	return c
}

func create(c *controllertest.Cluster, replicas int32) {
	c.Create(&corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ReplicationControllerSpec{
		Replicas: &replicas, Selector: labels,
		Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "web:1"}}}},
	}})
}

func get(c *controllertest.Cluster) *corev1.ReplicationController {
	return controllertest.Get(c, "default", "web", &corev1.ReplicationController{})
}

func TestQuotaShowsInTheConditions(t *testing.T) {
	c := start(t)
	c.Run("resourcequota-controller", func(d controller.Deps) (controller.Runnable, error) { return resourcequota.New(d, c.Discover) })
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "two"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("2")}}}
	c.Create(quota)
	c.Eventually("the quota is in force", &corev1.ResourceQuotaList{}, func() bool {
		hard := controllertest.Get(c, "default", "two", quota).Status.Hard[corev1.ResourcePods]
		return hard.Value() == 2
	})
	create(c, 3)
	c.Eventually("a condition", &corev1.ReplicationControllerList{}, func() bool {
		rc := get(c)
		if len(rc.Status.Conditions) == 0 || rc.Status.AvailableReplicas != 2 {
			return false
		}
		condition := rc.Status.Conditions[0]
		if condition.Type != corev1.ReplicationControllerReplicaFailure || condition.Status != corev1.ConditionTrue || condition.Reason != "FailedCreate" || !strings.Contains(condition.Message, "exceeded quota: two") {
			t.Errorf("condition %+v", condition)
		}
		return true
	})
	controllertest.Change(c, get(c), func(rc *corev1.ReplicationController) { rc.Spec.Replicas = ptr.To[int32](2) })
	c.Eventually("no condition", &corev1.ReplicationControllerList{}, func() bool { return len(get(c).Status.Conditions) == 0 })
}

func TestAdoptAndRelease(t *testing.T) {
	c := start(t)
	orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "orphan", Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "web:1"}}}}
	c.Create(orphan)
	create(c, 1)
	c.Eventually("adoption", &corev1.PodList{}, func() bool {
		return metav1.IsControlledBy(controllertest.Get(c, "default", "orphan", orphan), get(c))
	})
	controllertest.Change(c, orphan, func(p *corev1.Pod) { p.Labels = map[string]string{"app": "other"} })
	c.Eventually("release, and another pod", &corev1.PodList{}, func() bool {
		p := controllertest.Get(c, "default", "orphan", orphan)
		return len(p.OwnerReferences) == 0 && len(c.Pods("default", client.MatchingLabels(labels))) == 1
	})
}
