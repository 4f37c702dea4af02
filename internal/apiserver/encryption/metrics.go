package encryption

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc/status"
)

// Metrics are those of encryption, under upstream's names.
type Metrics struct {
	operations    *prometheus.CounterVec
	generation    prometheus.Histogram
	failures      prometheus.Counter
	misses        prometheus.Counter
	fill          prometheus.Gauge
	pluginLatency *prometheus.HistogramVec
}

// NewMetrics makes metrics that nothing was counted in.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	auto := promauto.With(reg)
	return &Metrics{
		operations: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_storage_transformation_operations_total", Help: "Values that were encrypted and decrypted.",
		}, []string{"resource", "transformation_type", "transformer_prefix", "status"}),
		generation: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "apiserver_storage_data_key_generation_duration_seconds", Help: "Time that making a data key takes.", Buckets: prometheus.ExponentialBuckets(5e-6, 2, 14),
		}),
		failures: auto.NewCounter(prometheus.CounterOpts{Name: "apiserver_storage_data_key_generation_failures_total", Help: "Data keys that could not be made."}),
		misses: auto.NewCounter(prometheus.CounterOpts{
			Name: "apiserver_storage_envelope_transformation_cache_misses_total", Help: "Data keys that had to be decrypted by the plug-in.",
		}),
		fill: auto.NewGauge(prometheus.GaugeOpts{Name: "apiserver_envelope_encryption_dek_cache_fill_percent", Help: "Part of the memory for data keys that is in use."}),
		pluginLatency: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_envelope_encryption_kms_operations_latency_seconds", Help: "Time that a plug-in takes to answer.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 20),
		}, []string{"provider_name", "method_name", "grpc_status_code"}),
	}
}

// The two ways of a value.
const (
	toStorage   = "to_storage"
	fromStorage = "from_storage"
)

func (m *Metrics) transformed(resource, way, prefix string, err error) {
	if m == nil {
		return
	}
	outcome := "OK"
	if err != nil {
		outcome = "Unknown"
	}
	m.operations.WithLabelValues(resource, way, prefix, outcome).Inc()
}

// asked tells of a call of a plug-in.
func (m *Metrics) asked(plugin, method string, began time.Time, err error) {
	if m != nil {
		m.pluginLatency.WithLabelValues(plugin, method, status.Code(err).String()).Observe(time.Since(began).Seconds())
	}
}

// madeKey tells how long a new data key took.
func (m *Metrics) madeKey(began time.Time, err error) {
	if m == nil {
		return
	}
	m.generation.Observe(time.Since(began).Seconds())
	if err != nil {
		m.failures.Inc()
	}
}

// remember tells how many data keys are in memory, and whether one was not.
func (m *Metrics) remember(keys int, missed bool) {
	if m == nil {
		return
	}
	m.fill.Set(float64(keys) / remembered)
	if missed {
		m.misses.Inc()
	}
}
