package scheduler_test

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
	"skiff/internal/scheduler"
)

// TestMetrics gates one pod, schedules a second, and finds no place for a third.
func TestMetrics(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t)
	reg := prometheus.NewRegistry()
	s, err := scheduler.New(scheduler.Config{
		Client: c.Set(identity.Component("system:kube-scheduler")), Clock: clock.RealClock{}, Log: logger(t), Metrics: reg,
	})
	if err != nil {
		t.Fatal(err)
	}
	testcluster.Run(t, func(ctx context.Context) error { return s.Run(ctx) })
	node(t, c, "n1")
	create(t, c, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}})
	create(t, c, pod("gated", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/later"}} }))
	create(t, c, pod("fits"))
	create(t, c, pod("large", func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100")}
	}))
	want := map[string]float64{
		"scheduler_schedule_attempts_total profile=default-scheduler result=scheduled":                                       1,
		"scheduler_scheduling_attempt_duration_seconds profile=default-scheduler result=scheduled":                           1,
		"scheduler_pod_scheduling_sli_duration_seconds attempts=1":                                                           1,
		"scheduler_pod_scheduling_attempts":                                                                                  1,
		"scheduler_pending_pods queue=active":                                                                                0,
		"scheduler_pending_pods queue=unschedulable":                                                                         1,
		"scheduler_pending_pods queue=gated":                                                                                 1,
		"scheduler_unschedulable_pods plugin=NodeResourcesFit profile=default-scheduler":                                     1,
		"scheduler_unschedulable_pods plugin=SchedulingGates profile=default-scheduler":                                      1,
		"scheduler_cache_size type=nodes":                                                                                    1,
		"scheduler_queue_incoming_pods_total event=PodAdd queue=gated":                                                       1,
		"scheduler_framework_extension_point_duration_seconds extension_point=Bind profile=default-scheduler status=Success": 1,
	}
	// What is counted of the second is counted when its Event is written, and of
	// the third when its status is.
	eventually(t, c, &corev1.EventList{}, &corev1.PodList{}, "the metrics say so", func() bool {
		got := gather(t, reg)
		if got["scheduler_schedule_attempts_total profile=default-scheduler result=unschedulable"] == 0 {
			return false
		}
		for series, value := range want {
			if got[series] != value {
				return false
			}
		}
		return true
	})
}

// gather reads metrics: counters and gauges as they are, and how many samples
// histograms have.
func gather(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range all {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			switch {
			case m.Counter != nil:
				out[name] = m.Counter.GetValue()
			case m.Gauge != nil:
				out[name] = m.Gauge.GetValue()
			default:
				out[name] = float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return out
}
