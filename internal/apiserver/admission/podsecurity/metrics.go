package podsecurity

import (
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"skiff/internal/apiserver/admission"
)

// newest is the minor version of Kubernetes whose standards are the latest.
const newest = 36

// The outcomes of an evaluation.
const (
	allow = "allow"
	deny  = "deny"
)

// Metrics are upstream's about PodSecurity. A nil *Metrics counts nothing.
type Metrics struct {
	evaluations, exemptions, errors *prometheus.CounterVec
	// common are the evaluations of pods that may do anything, which most are.
	common map[admission.Operation]prometheus.Counter
}

// NewMetrics registers metrics that nothing was counted in.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	auto, request := promauto.With(reg), []string{"request_operation", "resource", "subresource"}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return auto.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append(labels, request...))
	}
	m := &Metrics{
		evaluations: counter("pod_security_evaluations_total", "Times that pods were held against a standard.", "decision", "policy_level", "policy_version", "mode"),
		exemptions:  counter("pod_security_exemptions_total", "Writes of pods and of what makes them that are exempt."),
		errors:      counter("pod_security_errors_total", "Times that a policy could not be found (fatal) or read.", "fatal"),
		common:      map[admission.Operation]prometheus.Counter{},
	}
	for _, operation := range []admission.Operation{admission.Create, admission.Update} {
		name := strings.ToLower(string(operation))
		m.common[operation] = m.evaluations.WithLabelValues(allow, privileged.String(), "latest", "enforce", name, "pod", "")
		for _, resource := range []string{"pod", "controller"} {
			m.exemptions.WithLabelValues(name, resource, "")
		}
	}
	return m
}

func (m *Metrics) evaluated(decision string, s standard, mode string, a *admission.Attributes) {
	if m == nil {
		return
	}
	if decision == allow && s.level == privileged && a.Subresource == "" {
		m.common[a.Operation].Inc() // only pods are allowed anything
		return
	}
	m.evaluations.WithLabelValues(append([]string{decision, s.level.String(), versionLabel(s), mode}, requestLabels(a)...)...).Inc()
}

func (m *Metrics) exempted(a *admission.Attributes) {
	if m != nil {
		m.exemptions.WithLabelValues(requestLabels(a)...).Inc()
	}
}

func (m *Metrics) failed(fatal bool, a *admission.Attributes) {
	if m != nil {
		m.errors.WithLabelValues(append([]string{strconv.FormatBool(fatal)}, requestLabels(a)...)...).Inc()
	}
}

// versionLabel bounds the number of versions: users may name any.
func versionLabel(s standard) string {
	switch {
	case s.level == privileged || s.version == latest:
		return "latest"
	case s.version > newest:
		return "future"
	}
	return "v1." + strconv.Itoa(s.version)
}

func requestLabels(a *admission.Attributes) []string {
	resource := "controller"
	if a.Resource.Group == "" && a.Resource.Resource == "pods" {
		resource = "pod"
	}
	return []string{strings.ToLower(string(a.Operation)), resource, a.Subresource}
}
