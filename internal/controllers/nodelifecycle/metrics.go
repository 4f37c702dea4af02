package nodelifecycle

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	corev1 "k8s.io/api/core/v1"
)

var (
	zoneSize      = prometheus.NewDesc("node_collector_zone_size", "Nodes of a zone.", []string{"zone"}, nil)
	zoneHealth    = prometheus.NewDesc("node_collector_zone_health", "Percentage of a zone's nodes that are ready.", []string{"zone"}, nil)
	zoneUnhealthy = prometheus.NewDesc("node_collector_unhealthy_nodes_in_zone", "Nodes of a zone that are not ready.", []string{"zone"}, nil)
)

// register makes the controller's metrics, which are upstream's.
func (r *reconciler) register(reg prometheus.Registerer) {
	r.evictions = promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "node_collector_evictions_total", Help: "Nodes that pods were told to leave.",
	}, []string{"zone"})
	if reg != nil {
		reg.MustRegister(r)
	}
}

// Describe implements prometheus.Collector.
func (r *reconciler) Describe(out chan<- *prometheus.Desc) {
	out <- zoneSize
	out <- zoneHealth
	out <- zoneUnhealthy
}

// Collect implements prometheus.Collector.
func (r *reconciler) Collect(out chan<- prometheus.Metric) {
	all, ready := map[string]int{}, map[string]int{}
	r.mu.Lock()
	for _, m := range r.zones.members {
		all[m.zone]++
		if m.ready {
			ready[m.zone]++
		}
	}
	r.mu.Unlock()
	for zone, n := range all {
		for d, value := range map[*prometheus.Desc]float64{zoneSize: float64(n), zoneHealth: 100 * float64(ready[zone]) / float64(n), zoneUnhealthy: float64(n - ready[zone])} {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, zoneLabel(zone))
		}
	}
}

// zoneLabel names a zone in metrics: nothing stands for nodes without one.
func zoneLabel(zone string) string {
	if zone == "/" {
		return ""
	}
	return zone
}

// tainted counts a node that got the taint that drives pods out.
func (r *reconciler) tainted(before, after *corev1.Node) {
	if !drivesOut(before) && drivesOut(after) {
		r.evictions.WithLabelValues(zoneLabel(zoneOf(after))).Inc()
	}
}

func drivesOut(n *corev1.Node) bool {
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute && (t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable) {
			return true
		}
	}
	return false
}
