package scheduler

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/queue"
)

// The outcomes of an attempt.
const (
	outcomeScheduled     = "scheduled"
	outcomeUnschedulable = "unschedulable"
	outcomeError         = "error"
)

// metrics are upstream's. What the scheduler knows anyway is read when somebody
// asks.
type metrics struct {
	incoming    *prometheus.CounterVec
	preemptions prometheus.Counter
	victims     prometheus.Histogram
	algorithm   prometheus.Histogram
	attempts    prometheus.Histogram
	sli         *prometheus.HistogramVec
	profiles    func(name string) *profileMetrics
}

// profileMetrics are those of one profile.
type profileMetrics struct {
	outcomes map[string]outcomeMetrics
	points   map[string]pointMetrics
}

type outcomeMetrics struct {
	total    prometheus.Counter
	duration prometheus.Observer
}

// pointMetrics are those of one extension point, by its outcome.
type pointMetrics struct{ success, rejected, failed prometheus.Observer }

// The extension points that are measured. What upstream does at PreFilter,
// PreScore and Score is, for a class of equal pods, a part of Filter here.
var points = []string{"Filter", "PostFilter", "Reserve", "Permit", "PreBind", "Bind", "PostBind"}

func newMetrics(reg prometheus.Registerer) *metrics {
	auto := promauto.With(reg)
	seconds := prometheus.ExponentialBuckets(0.001, 2, 15)
	attempts := auto.NewCounterVec(prometheus.CounterOpts{Name: "scheduler_schedule_attempts_total", Help: "Attempts to schedule a pod."}, []string{"result", "profile"})
	duration := auto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "scheduler_scheduling_attempt_duration_seconds", Help: "Time from the beginning of an attempt to its end, binding included.", Buckets: seconds,
	}, []string{"result", "profile"})
	point := auto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "scheduler_framework_extension_point_duration_seconds", Help: "Time that all plug-ins of an extension point take.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2, 12),
	}, []string{"extension_point", "status", "profile"})
	return &metrics{
		incoming: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "scheduler_queue_incoming_pods_total", Help: "Pods that were put on a queue, by what put them there.",
		}, []string{"queue", "event"}),
		preemptions: auto.NewCounter(prometheus.CounterOpts{Name: "scheduler_preemption_attempts_total", Help: "Attempts to make room for a pod."}),
		victims:     auto.NewHistogram(prometheus.HistogramOpts{Name: "scheduler_preemption_victims", Help: "Pods that have to go for another.", Buckets: prometheus.ExponentialBuckets(1, 2, 7)}),
		algorithm: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "scheduler_scheduling_algorithm_duration_seconds", Help: "Time that deciding about a pod takes.", Buckets: seconds,
		}),
		attempts: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "scheduler_pod_scheduling_attempts", Help: "Attempts that it took until a pod was scheduled.", Buckets: prometheus.ExponentialBuckets(1, 2, 5),
		}),
		sli: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "scheduler_pod_scheduling_sli_duration_seconds", Help: "Time from when a pod could first be tried until it was scheduled.",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 20),
		}, []string{"attempts"}),
		profiles: func(name string) *profileMetrics {
			m := &profileMetrics{outcomes: map[string]outcomeMetrics{}, points: map[string]pointMetrics{}}
			for _, o := range []string{outcomeScheduled, outcomeUnschedulable, outcomeError} {
				m.outcomes[o] = outcomeMetrics{attempts.WithLabelValues(o, name), duration.WithLabelValues(o, name)}
			}
			for _, p := range points {
				m.points[p] = pointMetrics{point.WithLabelValues(p, "Success", name), point.WithLabelValues(p, "Unschedulable", name), point.WithLabelValues(p, "Error", name)}
			}
			return m
		},
	}
}

// ended tells how an attempt ended that began at the given time.
func (m *profileMetrics) ended(outcome string, took time.Duration) {
	o := m.outcomes[outcome]
	o.total.Inc()
	o.duration.Observe(took.Seconds())
}

// passed tells how long an extension point took.
func (m *profileMetrics) passed(point string, began time.Time, why *framework.Status) {
	p := m.points[point]
	o := p.success
	switch {
	case why == nil:
	case why.Code == framework.Failed:
		o = p.failed
	default:
		o = p.rejected
	}
	o.Observe(time.Since(began).Seconds())
}

// scheduled tells that a pod was scheduled at last.
func (m *metrics) scheduled(pod *framework.QueuedPod, now time.Time) {
	m.attempts.Observe(float64(pod.Attempts))
	m.sli.WithLabelValues(strconv.Itoa(min(pod.Attempts, mostAttempts))).Observe(now.Sub(pod.First).Seconds())
}

// mostAttempts stands for all greater numbers, too, of which there may be many.
const mostAttempts = 16

var (
	pendingPods   = prometheus.NewDesc("scheduler_pending_pods", "Pods that wait, by queue.", []string{"queue"}, nil)
	cacheSize     = prometheus.NewDesc("scheduler_cache_size", "What the scheduler knows of the cluster.", []string{"type"}, nil)
	unschedulable = prometheus.NewDesc("scheduler_unschedulable_pods", "Pods that a plug-in rejects.", []string{"plugin", "profile"}, nil)
)

// Describe implements prometheus.Collector.
func (s *Scheduler) Describe(out chan<- *prometheus.Desc) {
	out <- pendingPods
	out <- cacheSize
	out <- unschedulable
}

// Collect implements prometheus.Collector.
func (s *Scheduler) Collect(out chan<- prometheus.Metric) {
	s.mu.Lock()
	waiting := s.mu.queue.Waiting()
	nodes, pods := s.mu.cache.Len(), s.mu.cache.Pods()
	s.mu.Unlock()
	gauge := func(d *prometheus.Desc, value int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), labels...)
	}
	for _, q := range []string{queue.Active, queue.Backoff, queue.Unschedulable, queue.Gated} {
		gauge(pendingPods, waiting.Queues[q], q)
	}
	gauge(cacheSize, nodes, "nodes")
	gauge(cacheSize, pods, "pods")
	for at, n := range waiting.Rejected {
		gauge(unschedulable, n, at.Plugin, at.Profile)
	}
}
