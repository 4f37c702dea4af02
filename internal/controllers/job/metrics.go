package job

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// metrics are upstream's.
type metrics struct {
	syncs, finished, pods *prometheus.CounterVec
	duration              *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	auto := promauto.With(reg)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return auto.NewCounterVec(prometheus.CounterOpts{Name: "job_controller_" + name, Help: help}, labels)
	}
	return &metrics{
		syncs:    counter("job_syncs_total", "Times that a Job was looked at.", "completion_mode", "result", "action"),
		finished: counter("jobs_finished_total", "Jobs that have finished.", "completion_mode", "result", "reason"),
		pods:     counter("job_pods_finished_total", "Pods of Jobs that have ended and are counted.", "completion_mode", "result"),
		duration: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "job_controller_job_sync_duration_seconds", Help: "Time that looking at a Job takes.", Buckets: prometheus.ExponentialBuckets(0.004, 2, 15),
		}, []string{"completion_mode", "result", "action"}),
	}
}

func modeOf(job *batchv1.Job) string {
	return string(ptr.Deref(job.Spec.CompletionMode, batchv1.NonIndexedCompletion))
}

// synced tells that a Job was looked at.
func (m *metrics) synced(job *batchv1.Job, took time.Duration, err error) {
	result := "success"
	if err != nil {
		result = "error"
	}
	m.syncs.WithLabelValues(modeOf(job), result, "reconciling").Inc()
	m.duration.WithLabelValues(modeOf(job), result, "reconciling").Observe(took.Seconds())
}

// tracked tells what is new in the status of a Job.
func (m *metrics) tracked(old, job *batchv1.Job) {
	mode := modeOf(job)
	count := func(result string, n int32) {
		if n > 0 {
			m.pods.WithLabelValues(mode, result).Add(float64(n))
		}
	}
	count("succeeded", job.Status.Succeeded-old.Status.Succeeded)
	count("failed", job.Status.Failed-old.Status.Failed)
	for kind, result := range map[batchv1.JobConditionType]string{batchv1.JobComplete: "succeeded", batchv1.JobFailed: "failed"} {
		was, is := condition(&old.Status, kind), condition(&job.Status, kind)
		if is != nil && is.Status == corev1.ConditionTrue && (was == nil || was.Status != corev1.ConditionTrue) {
			m.finished.WithLabelValues(mode, result, is.Reason).Inc()
		}
	}
}
