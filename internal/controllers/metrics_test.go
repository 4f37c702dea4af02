package controllers_test

import (
	"context"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/controllers/controllertest"
)

// TestMetrics has the controllers' metrics beside the API server's.
func TestMetrics(t *testing.T) {
	t.Parallel()
	c := controllertest.Of(t, testcluster.Start(t))
	config := configOf(t, c)
	config.Metrics = c.Metrics
	runWith(t, config)
	labels := map[string]string{"app": "web"}
	c.Create(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	want := []string{
		"workqueue_adds_total deployment", "workqueue_work_duration_seconds replicaset", "workqueue_queue_duration_seconds replicaset", "running_managed_controllers kube-controller-manager job",
		"node_collector_zone_size ", "apiserver_storage_objects deployments.apps",
	}
	var missing string
	err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) {
		all, err := c.Metrics.Gather()
		if err != nil {
			return false, err
		}
		got := map[string]bool{}
		for _, f := range all {
			for _, m := range f.Metric {
				name := f.GetName()
				for _, l := range m.Label {
					name += " " + l.GetValue()
				}
				got[name] = m.Counter.GetValue()+m.Gauge.GetValue()+float64(m.Histogram.GetSampleCount()) > 0
			}
		}
		for _, series := range want {
			if !got[series] {
				missing = series
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		t.Errorf("%s is not shown: %v", missing, err)
	}
}
