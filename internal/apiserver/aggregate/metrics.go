package aggregate

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"skiff/internal/store/cache"
)

var unavailable = prometheus.NewDesc("aggregator_unavailable_apiservice", "Whether an APIService cannot be asked (1).", []string{"name"}, nil)

// Describe implements prometheus.Collector.
func (a *Aggregator) Describe(out chan<- *prometheus.Desc) { out <- unavailable }

// Collect implements prometheus.Collector. What this server answers itself is
// always available.
func (a *Aggregator) Collect(out chan<- prometheus.Metric) {
	_, others := a.Extensions()
	known := map[string]bool{}
	for _, e := range others {
		value := 0.0
		if _, stale := e.Resources(); stale {
			value = 1
		}
		known[e.service.Name] = true
		out <- prometheus.MustNewConstMetric(unavailable, prometheus.GaugeValue, value, e.service.Name)
	}
	snap := a.resource.Collection.Snapshot()
	prefix := a.resource.Prefix + "/"
	snap.Ascend(prefix, "", func(e *cache.Entry) bool {
		if name := strings.TrimPrefix(e.Key, prefix); !known[name] {
			out <- prometheus.MustNewConstMetric(unavailable, prometheus.GaugeValue, 0, name)
		}
		return true
	})
}
