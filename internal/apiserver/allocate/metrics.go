package allocate

import (
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are upstream's. How much is given away is read when somebody asks.
type metrics struct {
	allocations, failures *prometheus.CounterVec
	duration              *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	auto := promauto.With(reg)
	of := []string{"cidr", "scope"}
	return &metrics{
		allocations: auto.NewCounterVec(prometheus.CounterOpts{Name: "kube_apiserver_clusterip_allocator_allocation_total", Help: "Addresses that were given to Services."}, of),
		failures:    auto.NewCounterVec(prometheus.CounterOpts{Name: "kube_apiserver_clusterip_allocator_allocation_errors_total", Help: "Addresses that could not be given to a Service."}, of),
		duration: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kube_apiserver_clusterip_allocator_allocation_duration_seconds", Help: "Time that finding an address takes.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}, []string{"cidr"}),
	}
}

// How a Service came by its address.
const (
	scopeStatic  = "static"
	scopeDynamic = "dynamic"
)

var (
	allocatedAddresses = prometheus.NewDesc("kube_apiserver_clusterip_allocator_allocated_ips", "Addresses of a range that are given away.", []string{"cidr"}, nil)
	availableAddresses = prometheus.NewDesc("kube_apiserver_clusterip_allocator_available_ips", "Addresses of a range that are left.", []string{"cidr"}, nil)
	allocatedPorts     = prometheus.NewDesc("kube_apiserver_nodeport_allocator_allocated_ports", "Node ports that are given away.", nil, nil)
	availablePorts     = prometheus.NewDesc("kube_apiserver_nodeport_allocator_available_ports", "Node ports that are left.", nil, nil)
)

// Describe implements prometheus.Collector.
func (a *Allocator) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{allocatedAddresses, availableAddresses, allocatedPorts, availablePorts} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (a *Allocator) Collect(out chan<- prometheus.Metric) {
	a.mu.Lock()
	taken := make(map[netip.Prefix]int, len(a.mu.ranges))
	for _, r := range a.mu.ranges {
		taken[r] = 0
	}
	for ip := range a.mu.addresses.by {
		for _, r := range a.mu.ranges {
			if r.Contains(ip) {
				taken[r]++
				break
			}
		}
	}
	ports := len(a.mu.ports.by)
	a.mu.Unlock()
	gauge := func(d *prometheus.Desc, value int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), labels...)
	}
	for r, n := range taken {
		gauge(allocatedAddresses, n, r.String())
		gauge(availableAddresses, max(0, int(hosts(r))-n), r.String())
	}
	gauge(allocatedPorts, ports)
	gauge(availablePorts, allNodePorts-ports)
}
