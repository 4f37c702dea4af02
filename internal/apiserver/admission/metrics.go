package admission

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Metrics are upstream's about admission. A nil *Metrics counts nothing.
type Metrics struct {
	step, controller, webhook, conditions, validatingTime, mutatingTime *prometheus.HistogramVec
	summary                                                             *prometheus.SummaryVec
	requests, rejections, open, excluded, conditionErrors               *prometheus.CounterVec
	validating, mutating                                                *prometheus.CounterVec
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
	expressions := []float64{0.0000005, 0.001, 0.01, 0.1, 1}
	condition := []string{"name", "kind", "type", "operation"}
	return &Metrics{
		summary: prometheus.NewSummaryVec(prometheus.SummaryOpts{
			Name: "apiserver_admission_step_admission_duration_seconds_summary", Help: "Time that all admission plug-ins take, by step.", MaxAge: 5 * time.Hour,
		}, []string{"type", "operation", "rejected"}),
		controller: histogram("apiserver_admission_controller_admission_duration_seconds", "Time that an admission plug-in takes.",
			buckets[:6], "name", "type", "operation", "rejected"),
		conditions: histogram("apiserver_admission_match_condition_evaluation_seconds", "Time until the match conditions of a webhook or policy are evaluated.",
			[]float64{0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25}, condition...),
		excluded:        counter("apiserver_admission_match_condition_exclusions_total", "Writes that match conditions kept from a webhook.", condition...),
		conditionErrors: counter("apiserver_admission_match_condition_evaluation_errors_total", "Match conditions that could not be evaluated.", condition...),
		validating: counter("apiserver_validating_admission_policy_check_total", "Outcomes of validations.",
			"policy", "policy_binding", "error_type", "enforcement_action"),
		validatingTime: histogram("apiserver_validating_admission_policy_check_duration_seconds", "Time that a validation takes.",
			expressions, "policy", "policy_binding", "error_type", "enforcement_action"),
		mutating:     counter("apiserver_mutating_admission_policy_check_total", "Outcomes of mutations.", "policy", "policy_binding", "error_type"),
		mutatingTime: histogram("apiserver_mutating_admission_policy_check_duration_seconds", "Time that a mutation takes.", expressions, "policy", "policy_binding", "error_type"),
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
	return []prometheus.Collector{
		m.step, m.summary, m.controller, m.webhook, m.requests, m.rejections, m.open, m.conditions, m.excluded, m.conditionErrors,
		m.validating, m.validatingTime, m.mutating, m.mutatingTime,
	}
}

// Step tells how long a step, "admit" or "validate", took since start.
func (m *Metrics) Step(step string, a *Attributes, start time.Time, err error) {
	if m != nil {
		took, operation, rejected := time.Since(start).Seconds(), string(a.Operation), strconv.FormatBool(err != nil)
		m.step.WithLabelValues(step, operation, rejected).Observe(took)
		m.summary.WithLabelValues(step, operation, rejected).Observe(took)
	}
}

// Conditions tells of the match conditions of a "webhook" or "policy" of the
// type "admit", "validating" or "validate".
func (m *Metrics) Conditions(name, kind, of string, a *Attributes, start time.Time, matched bool, err error) {
	if m == nil {
		return
	}
	labels := []string{name, kind, of, string(a.Operation)}
	m.conditions.WithLabelValues(labels...).Observe(time.Since(start).Seconds())
	switch {
	case err != nil:
		m.conditionErrors.WithLabelValues(labels...).Inc()
	case !matched && kind == "webhook":
		m.excluded.WithLabelValues(labels...).Inc()
	}
}

// Validated tells what a binding did ("deny", "warn", "audit", or "allow" in
// spite of an error) about a validation.
func (m *Metrics) Validated(policy, binding, action string, took time.Duration, failure string) {
	if m != nil {
		m.validating.WithLabelValues(policy, binding, failure, action).Inc()
		m.validatingTime.WithLabelValues(policy, binding, failure, action).Observe(took.Seconds())
	}
}

// Mutated tells of a mutation.
func (m *Metrics) Mutated(policy, binding string, took time.Duration, failure string) {
	if m != nil {
		m.mutating.WithLabelValues(policy, binding, failure).Inc()
		m.mutatingTime.WithLabelValues(policy, binding, failure).Observe(took.Seconds())
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
