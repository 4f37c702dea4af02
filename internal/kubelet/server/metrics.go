package server

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// metrics serves the kubelet's own metrics.
func (s *Server) metrics() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kubelet_node_name", Help: "The node's name. The count is always 1.",
			ConstLabels: prometheus.Labels{"node": s.NodeName},
		}, func() float64 { return 1 }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kubelet_desired_pods", Help: "The number of pods the kubelet is being instructed to run.",
		}, func() float64 { return float64(len(s.Pods.Pods())) }),
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// resourceMetrics serves what the metrics API needs: usage of the node, its
// pods and their containers.
func (s *Server) resourceMetrics() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(&resourceCollector{stats: s.stats})
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

type resourceCollector struct{ stats *statistics }

// Describe implements prometheus.Collector; the metrics are found when asked
// for.
func (c *resourceCollector) Describe(chan<- *prometheus.Desc) {}

// collectTime bounds one collection.
const collectTime = 10 * time.Second

// Collect implements prometheus.Collector.
func (c *resourceCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTime)
	defer cancel()
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	failed := 0.0
	summary, err := c.stats.summary(ctx)
	if err != nil {
		failed = 1
	}
	out <- prometheus.MustNewConstMetric(
		desc("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise"), prometheus.GaugeValue, failed)
	if err != nil {
		return
	}
	cpu := func(d *prometheus.Desc, s *stats.CPUStats, labels ...string) {
		if s != nil && s.UsageCoreNanoSeconds != nil {
			out <- prometheus.NewMetricWithTimestamp(s.Time.Time, prometheus.MustNewConstMetric(
				d, prometheus.CounterValue, float64(*s.UsageCoreNanoSeconds)/float64(time.Second), labels...))
		}
	}
	memory := func(d *prometheus.Desc, s *stats.MemoryStats, labels ...string) {
		if s != nil && s.WorkingSetBytes != nil {
			out <- prometheus.NewMetricWithTimestamp(s.Time.Time, prometheus.MustNewConstMetric(
				d, prometheus.GaugeValue, float64(*s.WorkingSetBytes), labels...))
		}
	}
	cpu(desc("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds"), summary.Node.CPU)
	memory(desc("node_memory_working_set_bytes", "Current working set of the node in bytes"), summary.Node.Memory)
	podCPU := desc("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", "namespace", "pod")
	podMemory := desc("pod_memory_working_set_bytes", "Current working set of the pod in bytes", "namespace", "pod")
	labels := []string{"container", "namespace", "pod"}
	containerCPU := desc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", labels...)
	containerMemory := desc("container_memory_working_set_bytes", "Current working set of the container in bytes", labels...)
	started := desc("container_start_time_seconds", "Start time of the container since unix epoch in seconds", labels...)
	for i := range summary.Pods {
		p := &summary.Pods[i]
		cpu(podCPU, p.CPU, p.PodRef.Namespace, p.PodRef.Name)
		memory(podMemory, p.Memory, p.PodRef.Namespace, p.PodRef.Name)
		for j := range p.Containers {
			c := &p.Containers[j]
			values := []string{c.Name, p.PodRef.Namespace, p.PodRef.Name}
			cpu(containerCPU, c.CPU, values...)
			memory(containerMemory, c.Memory, values...)
			if !c.StartTime.IsZero() {
				out <- prometheus.MustNewConstMetric(started, prometheus.GaugeValue, float64(c.StartTime.UnixNano())/float64(time.Second), values...)
			}
		}
	}
}
