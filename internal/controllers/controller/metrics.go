package controller

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Metrics are those of the controllers' queues, under upstream's names; the
// queues have the names of their controllers. Nothing runs for them: what
// changes with time is worked out when somebody asks. A nil *Metrics counts
// nothing.
type Metrics struct {
	registerer    prometheus.Registerer
	adds, retries *prometheus.CounterVec
	waits, works  *prometheus.HistogramVec
	running       *prometheus.GaugeVec

	mu     sync.Mutex
	queues map[string]*queueMetrics
}

// queueMetrics are those of the queues of one name.
type queueMetrics struct {
	clock         clock.PassiveClock
	adds, retries prometheus.Counter
	waits, works  prometheus.Observer
	depth         atomic.Int64

	mu sync.Mutex
	// began is when the work under way was begun.
	began map[int64]time.Time
	next  int64
}

var (
	queueDepth      = prometheus.NewDesc("workqueue_depth", "Keys that wait in a queue.", []string{"name"}, nil)
	queueUnfinished = prometheus.NewDesc("workqueue_unfinished_work_seconds", "Time that the work under way has taken, all together.", []string{"name"}, nil)
	queueLongest    = prometheus.NewDesc("workqueue_longest_running_processor_seconds", "Time that the longest work under way has taken.", []string{"name"}, nil)
)

// NewMetrics makes metrics that nothing was counted in.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	auto := promauto.With(reg)
	name := []string{"name"}
	seconds := prometheus.ExponentialBuckets(10e-9, 10, 10)
	m := &Metrics{
		registerer: reg,

		adds:    auto.NewCounterVec(prometheus.CounterOpts{Name: "workqueue_adds_total", Help: "Keys that were put on a queue."}, name),
		retries: auto.NewCounterVec(prometheus.CounterOpts{Name: "workqueue_retries_total", Help: "Keys that were put on a queue again after a failure."}, name),
		waits:   auto.NewHistogramVec(prometheus.HistogramOpts{Name: "workqueue_queue_duration_seconds", Help: "Time that keys wait in a queue.", Buckets: seconds}, name),
		works:   auto.NewHistogramVec(prometheus.HistogramOpts{Name: "workqueue_work_duration_seconds", Help: "Time that working on a key takes.", Buckets: seconds}, name),
		running: auto.NewGaugeVec(prometheus.GaugeOpts{Name: "running_managed_controllers", Help: "Controllers that run (1)."}, []string{"name", "manager"}),
		queues:  map[string]*queueMetrics{},
	}
	reg.MustRegister(m)
	return m
}

// Registerer is where a controller registers metrics of its own; nil if they
// are shown nowhere.
func (m *Metrics) Registerer() prometheus.Registerer {
	if m == nil {
		return nil
	}
	return m.registerer
}

// Running tells that a controller runs, until the result is called.
func (m *Metrics) Running(name string) (ended func()) {
	if m == nil {
		return func() {}
	}
	g := m.running.WithLabelValues(name, "kube-controller-manager")
	g.Set(1)
	return func() { g.Set(0) }
}

func (m *Metrics) queue(name string, c clock.PassiveClock) *queueMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.queues[name]
	if q == nil {
		q = &queueMetrics{
			clock: c, began: map[int64]time.Time{},
			adds: m.adds.WithLabelValues(name), retries: m.retries.WithLabelValues(name),
			waits: m.waits.WithLabelValues(name), works: m.works.WithLabelValues(name),
		}
		m.queues[name] = q
	}
	return q
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	out <- queueDepth
	out <- queueUnfinished
	out <- queueLongest
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, q := range m.queues {
		sum, longest := q.unfinished()
		out <- prometheus.MustNewConstMetric(queueDepth, prometheus.GaugeValue, float64(q.depth.Load()), name)
		out <- prometheus.MustNewConstMetric(queueUnfinished, prometheus.GaugeValue, sum.Seconds(), name)
		out <- prometheus.MustNewConstMetric(queueLongest, prometheus.GaugeValue, longest.Seconds(), name)
	}
}

func (q *queueMetrics) unfinished() (sum, longest time.Duration) {
	now := q.clock.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, began := range q.began {
		took := now.Sub(began)
		sum += took
		longest = max(longest, took)
	}
	return sum, longest
}

// work returns f, measured.
func (q *queueMetrics) work(f Reconcile) Reconcile {
	return func(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
		began := q.clock.Now()
		q.mu.Lock()
		id := q.next
		q.next++
		q.began[id] = began
		q.mu.Unlock()
		defer func() {
			q.mu.Lock()
			delete(q.began, id)
			q.mu.Unlock()
			q.works.Observe(q.clock.Since(began).Seconds())
		}()
		return f(ctx, key)
	}
}

// order is the keys that wait, first come first served. Its queue calls it with
// a lock of its own held.
type order struct {
	*queueMetrics
	keys []waiting
}

type waiting struct {
	key   Request
	since time.Time
}

var _ workqueue.Queue[Request] = (*order)(nil)

// Touch is called for a key that waits already.
func (o *order) Touch(Request) {}

// Push adds a key.
func (o *order) Push(key Request) {
	o.adds.Inc()
	o.depth.Add(1)
	o.keys = append(o.keys, waiting{key, o.clock.Now()})
}

// Len is how many keys wait.
func (o *order) Len() int { return len(o.keys) }

// Pop removes the first key.
func (o *order) Pop() Request {
	first := o.keys[0]
	o.keys[0] = waiting{}
	o.keys = o.keys[1:]
	o.depth.Add(-1)
	o.waits.Observe(o.clock.Since(first.since).Seconds())
	return first.key
}

// retrying counts the keys that a limiter delays.
type retrying struct {
	workqueue.TypedRateLimiter[Request]
	*queueMetrics
}

// When implements workqueue.TypedRateLimiter.
func (r retrying) When(key Request) time.Duration {
	r.retries.Inc()
	return r.TypedRateLimiter.When(key)
}
