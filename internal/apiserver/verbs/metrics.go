package verbs

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"skiff/internal/store"
	"skiff/internal/store/cache"
)

// metrics are those of the stored resources, under upstream's names; the engine
// stands where upstream has etcd. What is counted anyway is read when somebody
// asks.
type metrics struct {
	requests, failures *prometheus.CounterVec
	duration, waits    *prometheus.HistogramVec
	equal, unequal     prometheus.Observer
	numbers            []number
}

// number is one number of a resource.
type number struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*counts, *cache.Stats) int64
	// labels are the values of those beyond the resource's.
	labels []string
	// plain numbers have one label for the resource in place of two; quiet ones
	// are not shown while they are 0.
	plain, quiet bool
}

// counts are what is counted of one resource.
type counts struct {
	// Lists of the cache, and what they went through, by whether they were of one
	// namespace.
	lists, fetched [2]atomic.Int64
	returned       atomic.Int64
	// Lists of past states, which were read from the engine.
	past, pastFetched, pastReturned atomic.Int64
	// consistent are the reads that were to be as new as the engine, failed those
	// of them that could not.
	consistent, failed atomic.Int64

	waits func() prometheus.Observer
	// writes are the engine's operations, by name.
	writes map[string]func() operationMetrics
}

type operationMetrics struct {
	requests prometheus.Counter
	duration prometheus.Observer
	failed   func()
}

// The engine's operations, as upstream calls them.
const (
	operationCreate = "create"
	operationUpdate = "update"
	operationDelete = "delete"
	operationList   = "list"
)

func newMetrics(reg prometheus.Registerer) *metrics {
	auto := promauto.With(reg)
	ofResource := []string{"group", "resource"}
	ofOperation := []string{"operation", "group", "resource"}
	seconds := []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}
	m := &metrics{
		requests: auto.NewCounterVec(prometheus.CounterOpts{Name: "etcd_requests_total", Help: "Operations of the store."}, ofOperation),
		failures: auto.NewCounterVec(prometheus.CounterOpts{Name: "etcd_request_errors_total", Help: "Operations of the store that failed."}, ofOperation),
		duration: auto.NewHistogramVec(prometheus.HistogramOpts{Name: "etcd_request_duration_seconds", Help: "Time that operations of the store take.", Buckets: seconds}, ofOperation),
		waits: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_watch_cache_read_wait_seconds", Help: "Time that reads wait until the cache is as new as they want it.", Buckets: seconds[:13],
		}, ofResource),
	}
	comparison := auto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "apiserver_request_timestamp_comparison_time", Help: "Time that finding out takes whether an update changes anything.",
		Buckets: []float64{0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 5},
	}, []string{"code_path"})
	m.equal, m.unequal = comparison.WithLabelValues("equalObjectsSlow"), comparison.WithLabelValues("unequalObjectsSlow")
	add := func(name, help string, kind prometheus.ValueType, value func(*counts, *cache.Stats) int64) {
		m.numbers = append(m.numbers, number{desc: prometheus.NewDesc(name, help, ofResource, nil), kind: kind, value: value})
	}
	more := func(name, help string, labels []string, each map[[2]string]func(*counts, *cache.Stats) int64) {
		desc := prometheus.NewDesc(name, help, append(ofResource[:2:2], labels...), nil)
		for values, value := range each {
			m.numbers = append(m.numbers, number{desc: desc, kind: prometheus.CounterValue, value: value, labels: values[:len(labels)]})
		}
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	objects := func(_ *counts, s *cache.Stats) int64 { return int64(s.Objects) }
	received := func(_ *counts, s *cache.Stats) int64 { return s.Received }
	m.numbers = append(m.numbers, number{
		desc: prometheus.NewDesc("apiserver_storage_objects", "Objects that are stored.", []string{"resource"}, nil), kind: gauge, value: objects, plain: true,
	})
	add("apiserver_resource_objects", "Objects that are stored.", gauge, objects)
	add("apiserver_resource_size_estimate_bytes", "Bytes that they take in the store.", gauge, func(_ *counts, s *cache.Stats) int64 { return s.Bytes })
	add("apiserver_storage_events_received_total", "Changes that came from the store.", counter, received)
	add("apiserver_watch_cache_events_received_total", "Changes that the cache took.", counter, received)
	add("apiserver_watch_cache_events_dispatched_total", "Changes that the cache handed to watchers.", counter, received)
	add("apiserver_watch_cache_initializations_total", "Times that the cache was filled.", counter, func(*counts, *cache.Stats) int64 { return 1 })
	add("apiserver_watch_cache_resource_version", "What the cache is as new as.", gauge, func(_ *counts, s *cache.Stats) int64 { return s.Revision })
	add("watch_cache_capacity", "Changes that are kept for watches that resume.", gauge, func(_ *counts, s *cache.Stats) int64 { return int64(s.Window) })
	add("apiserver_terminated_watchers_total", "Watchers that were too slow.", counter, func(_ *counts, s *cache.Stats) int64 { return s.FellBehind })
	m.numbers[len(m.numbers)-1].quiet = true
	add("apiserver_cache_list_returned_objects_total", "Objects that lists of the cache returned.", counter, func(c *counts, _ *cache.Stats) int64 { return c.returned.Load() })
	more("apiserver_cache_list_total", "Lists of the cache.", []string{"index"}, map[[2]string]func(*counts, *cache.Stats) int64{
		{""}:          func(c *counts, _ *cache.Stats) int64 { return c.lists[0].Load() },
		{"namespace"}: func(c *counts, _ *cache.Stats) int64 { return c.lists[1].Load() },
	})
	more("apiserver_cache_list_fetched_objects_total", "Objects that lists of the cache went through.", []string{"index"}, map[[2]string]func(*counts, *cache.Stats) int64{
		{""}:          func(c *counts, _ *cache.Stats) int64 { return c.fetched[0].Load() },
		{"namespace"}: func(c *counts, _ *cache.Stats) int64 { return c.fetched[1].Load() },
	})
	past := func(c *counts, _ *cache.Stats) int64 { return c.past.Load() }
	add("apiserver_storage_list_total", "Lists that were read from the store.", counter, past)
	add("apiserver_storage_list_fetched_objects_total", "Objects that were read for lists from the store.", counter, func(c *counts, _ *cache.Stats) int64 { return c.pastFetched.Load() })
	add("apiserver_storage_list_evaluated_objects_total", "Objects that were looked at for them.", counter, func(c *counts, _ *cache.Stats) int64 { return c.pastFetched.Load() })
	add("apiserver_storage_list_returned_objects_total", "Objects that they returned.", counter, func(c *counts, _ *cache.Stats) int64 { return c.pastReturned.Load() })
	more("apiserver_watch_cache_consistent_read_total", "Reads of the cache that were to be as new as the store.", []string{"success", "fallback"}, map[[2]string]func(*counts, *cache.Stats) int64{
		{"true", "false"}:  func(c *counts, _ *cache.Stats) int64 { return c.consistent.Load() - c.failed.Load() },
		{"false", "false"}: func(c *counts, _ *cache.Stats) int64 { return c.failed.Load() },
	})
	return m
}

// counts makes what a resource is counted by. Its histograms come into being
// when there is something to say.
func (m *metrics) counts(group, resource string) *counts {
	c := &counts{
		waits:  sync.OnceValue(func() prometheus.Observer { return m.waits.WithLabelValues(group, resource) }),
		writes: map[string]func() operationMetrics{},
	}
	for _, name := range []string{operationCreate, operationUpdate, operationDelete, operationList} {
		c.writes[name] = sync.OnceValue(func() operationMetrics {
			return operationMetrics{
				requests: m.requests.WithLabelValues(name, group, resource), duration: m.duration.WithLabelValues(name, group, resource),
				failed: func() { m.failures.WithLabelValues(name, group, resource).Inc() },
			}
		})
	}
	return c
}

// compared tells how long it took to find out whether an update changes
// anything.
func (m *metrics) compared(same bool, began time.Time) {
	o := m.unequal
	if same {
		o = m.equal
	}
	o.Observe(time.Since(began).Seconds())
}

// listed counts a list of the cache.
func (c *counts) listed(ofNamespace bool, fetched, returned int) {
	i := 0
	if ofNamespace {
		i = 1
	}
	c.lists[i].Add(1)
	c.fetched[i].Add(int64(fetched))
	c.returned.Add(int64(returned))
}

// operated counts an operation of the engine. A conflict is no failure of it.
func (c *counts) operated(name string, began time.Time, err error) {
	o := c.writes[name]()
	o.requests.Inc()
	o.duration.Observe(time.Since(began).Seconds())
	if err != nil && !isStoreConflict(err) {
		o.failed()
	}
}

// Describe implements prometheus.Collector.
func (s *Server) Describe(out chan<- *prometheus.Desc) {
	for i := range s.metrics.numbers {
		out <- s.metrics.numbers[i].desc
	}
	out <- storageSize
}

// storageSize is how much the engine takes.
var storageSize = prometheus.NewDesc("apiserver_storage_size_bytes", "Bytes that the store takes on its disk.", []string{"storage_cluster_id"}, nil)

// Collect implements prometheus.Collector.
func (s *Server) Collect(out chan<- prometheus.Metric) {
	for _, r := range s.Resources() {
		if r.Collection == nil {
			continue
		}
		stats := r.Collection.Stats()
		gr := r.GroupResource()
		for i := range s.metrics.numbers {
			n := &s.metrics.numbers[i]
			labels := append([]string{gr.Group, gr.Resource}, n.labels...)
			if n.plain {
				labels = []string{gr.String()}
			}
			if value := n.value(r.counts, &stats); value != 0 || !n.quiet {
				out <- prometheus.MustNewConstMetric(n.desc, n.kind, float64(value), labels...)
			}
		}
	}
	if sized, ok := s.engine.(store.Sized); ok {
		// What takes longer than this to tell is not shown.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if size, err := sized.Size(ctx); err == nil {
			out <- prometheus.MustNewConstMetric(storageSize, prometheus.GaugeValue, float64(size), "etcd-0")
		}
	}
}
