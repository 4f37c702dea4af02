package cel

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics tell how long expressions take, under upstream's names. A nil
// *Metrics counts nothing.
type Metrics struct{ compilation, evaluation prometheus.Histogram }

// NewMetrics makes metrics that nothing was counted in.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	auto := promauto.With(reg)
	return &Metrics{
		compilation: auto.NewHistogram(prometheus.HistogramOpts{Name: "apiserver_cel_compilation_duration_seconds", Help: "Time that compiling an expression takes."}),
		evaluation:  auto.NewHistogram(prometheus.HistogramOpts{Name: "apiserver_cel_evaluation_duration_seconds", Help: "Time that evaluating an expression takes."}),
	}
}

// Compiled tells that an expression has been compiled.
func (m *Metrics) Compiled(began time.Time) {
	if m != nil {
		m.compilation.Observe(time.Since(began).Seconds())
	}
}

// Evaluated tells that expressions have been evaluated.
func (m *Metrics) Evaluated(began time.Time) {
	if m != nil {
		m.evaluation.Observe(time.Since(began).Seconds())
	}
}
