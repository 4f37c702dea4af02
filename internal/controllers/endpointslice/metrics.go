package endpointslice

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// metrics are upstream's.
type metrics struct {
	syncs, changes *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	auto := promauto.With(reg)
	const prefix = "endpoint_slice_controller_"
	return &metrics{
		syncs:   auto.NewCounterVec(prometheus.CounterOpts{Name: prefix + "syncs", Help: "Times that a Service was looked at."}, []string{"result"}),
		changes: auto.NewCounterVec(prometheus.CounterOpts{Name: prefix + "changes", Help: "Slices that were written."}, []string{"operation"}),
	}
}

// synced tells how looking at a Service ended.
func (m *metrics) synced(c *changes, err error) {
	result := "success"
	if err != nil {
		result = "error"
	}
	m.syncs.WithLabelValues(result).Inc()
	for operation, list := range map[string][]*discoveryv1.EndpointSlice{"create": c.Create, "update": c.Update, "delete": c.Remove} {
		if len(list) > 0 {
			m.changes.WithLabelValues(operation).Add(float64(len(list)))
		}
	}
}
