package apiserver

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
)

// exposition is what /metrics shows: the process's metrics, less those that are
// disabled, with how stable upstream holds each to be, and how many there are.
type exposition struct {
	prometheus.Gatherer
	disabled []string
}

// The levels of stability.
const (
	stable = "STABLE"
	beta   = "BETA"
	alpha  = "ALPHA"
)

// stability is that of a metric under upstream's rules; empty for those that are
// not its own: the language runtime's and the process's.
func stability(name string) string {
	for _, prefix := range []string{"go_", "process_"} {
		if strings.HasPrefix(name, prefix) {
			return ""
		}
	}
	switch name {
	case "apiserver_admission_controller_admission_duration_seconds", "apiserver_admission_step_admission_duration_seconds",
		"apiserver_admission_webhook_admission_duration_seconds", "apiserver_current_inflight_requests", "apiserver_longrunning_requests",
		"apiserver_request_duration_seconds", "apiserver_request_total", "apiserver_requested_deprecated_apis", "apiserver_response_sizes",
		"apiserver_storage_objects", "cronjob_controller_job_creation_skew_duration_seconds", "job_controller_job_pods_finished_total",
		"job_controller_job_sync_duration_seconds", "job_controller_job_syncs_total", "job_controller_jobs_finished_total",
		"node_collector_evictions_total", "scheduler_framework_extension_point_duration_seconds", "scheduler_pending_pods",
		"scheduler_pod_scheduling_attempts", "scheduler_preemption_attempts_total", "scheduler_preemption_victims",
		"scheduler_queue_incoming_pods_total", "scheduler_schedule_attempts_total", "scheduler_scheduling_attempt_duration_seconds":
		return stable
	case "apiserver_authentication_config_controller_automatic_reloads_total", "apiserver_authentication_config_controller_automatic_reload_last_timestamp_seconds",
		"apiserver_authorization_config_controller_automatic_reloads_total", "apiserver_authorization_config_controller_automatic_reload_last_timestamp_seconds",
		"apiserver_cel_compilation_duration_seconds",
		"apiserver_cel_evaluation_duration_seconds", "apiserver_flowcontrol_current_executing_requests", "apiserver_flowcontrol_current_executing_seats",
		"apiserver_flowcontrol_current_inqueue_requests", "apiserver_flowcontrol_dispatched_requests_total",
		"apiserver_flowcontrol_nominal_limit_seats", "apiserver_flowcontrol_rejected_requests_total",
		"apiserver_flowcontrol_request_wait_duration_seconds", "apiserver_storage_events_received_total",
		"apiserver_validating_admission_policy_check_duration_seconds", "apiserver_validating_admission_policy_check_total",
		"apiserver_watch_list_duration_seconds", "disabled_metrics_total", "hidden_metrics_total", "kubernetes_build_info",
		"kubernetes_feature_enabled", "registered_metrics_total", "scheduler_pod_scheduling_sli_duration_seconds":
		return beta
	}
	return alpha
}

// Gather implements prometheus.Gatherer.
func (e *exposition) Gather() ([]*dto.MetricFamily, error) {
	all, err := e.Gatherer.Gather()
	registered := map[string]int{}
	all = slices.DeleteFunc(all, func(f *dto.MetricFamily) bool {
		if slices.Contains(e.disabled, f.GetName()) {
			return true
		}
		if level := stability(f.GetName()); level != "" {
			registered[level]++
			f.Help = proto.String("[" + level + "] " + f.GetHelp())
		}
		return false
	})
	counter := func(name, help string, metrics ...*dto.Metric) {
		all = append(all, &dto.MetricFamily{Name: &name, Help: proto.String("[" + beta + "] " + help), Type: dto.MetricType_COUNTER.Enum(), Metric: metrics})
	}
	value := func(n int, labels ...*dto.LabelPair) *dto.Metric {
		return &dto.Metric{Label: labels, Counter: &dto.Counter{Value: proto.Float64(float64(n))}}
	}
	counter("disabled_metrics_total", "Metrics that are disabled.", value(len(e.disabled)))
	counter("hidden_metrics_total", "Metrics that are hidden because they are deprecated: none are.", value(0))
	var levels []*dto.Metric
	for _, level := range []string{alpha, beta, stable} {
		levels = append(levels, value(registered[level],
			&dto.LabelPair{Name: proto.String("deprecated_version"), Value: proto.String("")}, &dto.LabelPair{Name: proto.String("stability_level"), Value: proto.String(level)}))
	}
	counter("registered_metrics_total", "Metrics by how stable they are.", levels...)
	slices.SortFunc(all, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return all, err
}
