package audit

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// Metrics count what is recorded, under upstream's names.
type Metrics struct {
	events, rejected prometheus.Counter
	errors, levels   *prometheus.CounterVec
}

// NewMetrics makes metrics that nothing was counted in. They are shown, too,
// where nothing is recorded.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	auto := promauto.With(reg)
	return &Metrics{
		events:   auto.NewCounter(prometheus.CounterOpts{Name: "apiserver_audit_event_total", Help: "Events that were handed to the back ends."}),
		rejected: auto.NewCounter(prometheus.CounterOpts{Name: "apiserver_audit_requests_rejected_total", Help: "Requests that were refused because they could not be recorded."}),
		errors:   auto.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_audit_error_total", Help: "Events that were lost."}, []string{"plugin"}),
		levels:   auto.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_audit_level_total", Help: "Requests by how much of them is recorded."}, []string{"level"}),
	}
}

func (m *Metrics) began(level auditv1.Level) {
	if m != nil {
		m.levels.WithLabelValues(string(level)).Inc()
	}
}

func (m *Metrics) wrote(stage auditv1.Stage, err error) {
	if m == nil {
		return
	}
	m.events.Inc()
	if err == nil {
		return
	}
	m.errors.WithLabelValues("sink").Inc()
	if stage == auditv1.StageRequestReceived {
		m.rejected.Inc()
	}
}
