package crd

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are those of custom resources, under upstream's names. A nil *Metrics
// counts nothing.
type Metrics struct {
	ratcheting  prometheus.Histogram
	conversions *prometheus.HistogramVec
}

// NewMetrics makes metrics that nothing was counted in.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	auto := promauto.With(reg)
	return &Metrics{
		ratcheting: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "apiextensions_apiserver_validation_ratcheting_seconds", Help: "Time that the checks of an update take, which let pass what was wrong before.",
			Buckets: []float64{1e-5, 4e-5, 16e-5, 64e-5, 256e-5, 1024e-5, 4096e-5, 16384e-5, 65536e-5},
		}),
		conversions: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_crd_conversion_webhook_duration_seconds", Help: "Time that conversion webhooks take.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}, []string{"crd_name", "from_version", "to_version", "succeeded"}),
	}
}

func (m *Metrics) updated(began time.Time) {
	if m != nil {
		m.ratcheting.Observe(time.Since(began).Seconds())
	}
}

func (m *Metrics) converted(crd, from, to string, began time.Time, err error) {
	if m != nil {
		m.conversions.WithLabelValues(crd, from, to, strconv.FormatBool(err == nil)).Observe(time.Since(began).Seconds())
	}
}
