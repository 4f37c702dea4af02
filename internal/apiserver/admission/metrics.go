package admission

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Metrics are upstream's about admission, apart from those about single
// built-in plug-ins, which would cost every write more than the plug-ins do.
// A nil *Metrics counts nothing.
type Metrics struct {
	step, webhook              *prometheus.HistogramVec
	requests, rejections, open *prometheus.CounterVec
}

// NewMetrics returns metrics that nothing was counted in.
func NewMetrics() *Metrics {
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	buckets := []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 25}
	return &Metrics{
		step: histogram("apiserver_admission_step_admission_duration_seconds", "Time that all admission plug-ins take, by step.",
			buckets[:6], "type", "operation", "rejected"),
		webhook: histogram("apiserver_admission_webhook_admission_duration_seconds", "Time until a webhook answers.",
			buckets, "name", "type", "operation", "rejected"),
		requests: counter("apiserver_admission_webhook_request_total", "Questions to webhooks.",
			"name", "type", "operation", "code", "rejected"),
		rejections: counter("apiserver_admission_webhook_rejection_count", "Writes that webhooks refused, or that failed with them.",
			"name", "type", "operation", "error_type", "rejection_code"),
		open: counter("apiserver_admission_webhook_fail_open_count", "Writes that went on though a webhook could not be asked.",
			"name", "type"),
	}
}

// Collectors returns the metrics for a registry.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.step, m.webhook, m.requests, m.rejections, m.open}
}

// Step tells how long a step, "admit" or "validate", took since start.
func (m *Metrics) Step(step string, a *Attributes, start time.Time, err error) {
	if m != nil {
		m.step.WithLabelValues(step, string(a.Operation), strconv.FormatBool(err != nil)).Observe(time.Since(start).Seconds())
	}
}

// Webhook tells of a question to a webhook of the kind "admit" or "validating".
// failed says that err is not the webhook's word, and ignored that the write
// went on regardless.
func (m *Metrics) Webhook(name, kind string, a *Attributes, start time.Time, err error, failed, ignored bool) {
	if m == nil {
		return
	}
	code := 200
	if err != nil {
		code = codeOf(err)
	}
	operation, rejected := string(a.Operation), strconv.FormatBool(err != nil && !ignored)
	m.webhook.WithLabelValues(name, kind, operation, rejected).Observe(time.Since(start).Seconds())
	m.requests.WithLabelValues(name, kind, operation, strconv.Itoa(code), rejected).Inc()
	switch {
	case err == nil || errors.Is(err, context.Canceled):
	case ignored:
		m.open.WithLabelValues(name, kind).Inc()
	case failed:
		m.rejections.WithLabelValues(name, kind, operation, "calling_webhook_error", strconv.Itoa(code)).Inc()
	default:
		m.rejections.WithLabelValues(name, kind, operation, "no_error", strconv.Itoa(code)).Inc()
	}
}

// codeOf returns the status code of an error, at most 600 so that there are
// not too many.
func codeOf(err error) int {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return 503
	}
	return min(int(status.Status().Code), 600)
}
