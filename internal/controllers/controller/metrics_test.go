package controller

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// values reads the metrics of queues: counters and gauges as they are, and the
// sums of histograms.
func values(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range all {
		for _, m := range f.Metric {
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				out[f.GetName()] = m.Counter.GetValue()
			case dto.MetricType_HISTOGRAM:
				out[f.GetName()] = m.Histogram.GetSampleSum()
			default:
				out[f.GetName()] = m.Gauge.GetValue()
			}
		}
	}
	return out
}

func TestQueueMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	clock := testclock.NewFakeClock(time.Now())
	m := NewMetrics(reg)
	q := m.queue("test", clock)
	limiter := retrying{workqueue.NewTypedItemExponentialFailureRateLimiter[Request](time.Second, time.Minute), q}
	keys := newQueue(limiter, &order{queueMetrics: q}, clock)
	defer keys.ShutDown()
	expect := func(want map[string]float64) {
		t.Helper()
		got := values(t, reg)
		for name, v := range want {
			if got["workqueue_"+name] != v {
				t.Errorf("workqueue_%s is %v, want %v", name, got["workqueue_"+name], v)
			}
		}
	}
	Add(keys, "ns", "a")
	Add(keys, "ns", "a")
	Add(keys, "ns", "b")
	expect(map[string]float64{"adds_total": 2, "depth": 2})
	clock.Step(3 * time.Second)
	key, _ := keys.Get()
	expect(map[string]float64{"depth": 1, "queue_duration_seconds": 3})
	working, finish, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_, _ = q.work(func(context.Context, types.NamespacedName) (reconcile.Result, error) {
			close(working)
			<-finish
			return reconcile.Result{}, errors.New("no")
		})(t.Context(), key.NamespacedName)
	}()
	<-working
	clock.Step(2 * time.Second)
	expect(map[string]float64{"unfinished_work_seconds": 2, "longest_running_processor_seconds": 2, "work_duration_seconds": 0})
	close(finish)
	<-done
	keys.AddRateLimited(key)
	keys.Done(key)
	expect(map[string]float64{"unfinished_work_seconds": 0, "work_duration_seconds": 2, "retries_total": 1, "depth": 1})
}
