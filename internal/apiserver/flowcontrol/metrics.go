package flowcontrol

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	labelLevel  = "priority_level"
	labelSchema = "flow_schema"
)

// metrics are the controller's, under upstream's names. Gauges are read from
// the levels when somebody asks.
type metrics struct {
	levels atomic.Pointer[[]*level]

	dispatched   *prometheus.CounterVec
	rejected     *prometheus.CounterVec
	waited       *prometheus.HistogramVec
	executed     *prometheus.HistogramVec
	queueLength  *prometheus.HistogramVec
	width        *prometheus.HistogramVec
	demand       *prometheus.HistogramVec
	utilization  *prometheus.HistogramVec // of seats
	requests     *prometheus.HistogramVec // of places for requests
	watchers     *prometheus.HistogramVec
	target       *prometheus.GaugeVec
	fairFrac     prometheus.Gauge
	levelGauges  []levelGauge
	flowGauges   []flowGauge
	mu           sync.Mutex
	flowsByLevel map[string]map[string]*flowMetrics
}

// flowMetrics are those of one FlowSchema at one level.
type flowMetrics struct {
	dispatched                              prometheus.Counter
	waited, waitedInVain, executed, trailed prometheus.Observer
	queueLength, width, watchers            prometheus.Observer
	rejected                                func(reason string)
	executing, seats, waiting, waitingSeats atomic.Int64
}

// levelMetrics are samples of one level, each taken when a request arrives.
type levelMetrics struct{ demand, seats, executing, waiting prometheus.Observer }

func (m *metrics) level(name string) *levelMetrics {
	return &levelMetrics{
		demand: m.demand.WithLabelValues(name), seats: m.utilization.WithLabelValues(name),
		executing: m.requests.WithLabelValues("executing", name), waiting: m.requests.WithLabelValues("waiting", name),
	}
}

// sampleLocked notes how full the level is for a request that comes now.
func (l *level) sampleLocked(width int) {
	m := l.metrics
	part := func(used, of int) float64 { return float64(used) / float64(max(1, of)) }
	m.seats.Observe(part(l.mu.executingSeats, l.mu.limit))
	m.executing.Observe(part(l.mu.executing, l.mu.limit))
	m.waiting.Observe(part(l.mu.waiting, len(l.mu.queues)*l.mu.queueLength))
	m.demand.Observe(part(l.mu.executingSeats+l.mu.waitingSeats+width, l.mu.nominal))
}

// boundsOfQueuesLocked returns the least and the greatest virtual start among the
// queues with something to do.
func (l *level) boundsOfQueuesLocked() (least, greatest float64) {
	first := true
	for _, q := range l.mu.queues {
		if len(q.waiting) == 0 && q.executing == 0 {
			continue
		}
		if first {
			least, greatest, first = q.start, q.start, false
		}
		least, greatest = min(least, q.start), max(greatest, q.start)
	}
	return least, greatest
}

type levelGauge struct {
	desc   *prometheus.Desc
	labels []string // further ones
	value  func(*level) float64
}

type flowGauge struct {
	desc  *prometheus.Desc
	value func(*flowMetrics) float64
}

func newMetrics() *metrics {
	const prefix = "apiserver_flowcontrol_"
	both := []string{labelLevel, labelSchema}
	seconds := []float64{0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: prefix + name, Help: help, Buckets: buckets}, labels)
	}
	m := &metrics{
		dispatched:  counter("dispatched_requests_total", "Requests that got a seat.", both...),
		rejected:    counter("rejected_requests_total", "Requests that were refused, by reason.", labelLevel, labelSchema, "reason"),
		waited:      histogram("request_wait_duration_seconds", "Time that requests spent in a queue.", seconds, labelLevel, labelSchema, "execute"),
		executed:    histogram("request_execution_seconds", "Time that requests held their seats.", seconds, labelLevel, labelSchema, "type"),
		queueLength: histogram("request_queue_length_after_enqueue", "Length of the queue that a request joined.", []float64{0, 10, 25, 50, 100, 250, 500, 1000}, both...),
		width:       histogram("work_estimated_seats", "Seats that requests were taken to need.", []float64{1, 2, 4, 8, 16, 32, 64, 100}, both...),
		demand: histogram("demand_seats", "Seats that a level could use, as a part of its nominal ones, when requests arrive.",
			[]float64{0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.7, 2, 2.8, 4, 6}, labelLevel),
		requests: histogram("priority_level_request_utilization", "Part of a level's places for requests that is taken when requests arrive.",
			[]float64{0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1}, "phase", labelLevel),
		utilization: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + "priority_level_seat_utilization", Help: "Part of a level's seats that is taken when requests arrive.",
			Buckets: []float64{0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1}, ConstLabels: prometheus.Labels{"phase": "executing"},
		}, []string{labelLevel}),
		watchers: histogram("watch_count_samples", "Watchers of what a request changes.", []float64{0, 1, 10, 100, 1000, 10000}, both...),
		target: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: prefix + "target_seats", Help: "Seats that a level should get by its demand.",
		}, []string{labelLevel}),
		fairFrac:     prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "seat_fair_frac", Help: "Fraction of their targets that all levels get."}),
		flowsByLevel: map[string]map[string]*flowMetrics{},
	}
	perLevel := func(name, help string, value func(*level) float64) {
		m.levelGauges = append(m.levelGauges, levelGauge{desc: prometheus.NewDesc(prefix+name, help, []string{labelLevel}, nil), value: value})
	}
	perBound := func(name, help string) {
		desc := prometheus.NewDesc(prefix+name, help, []string{labelLevel, "bound"}, nil)
		m.levelGauges = append(m.levelGauges,
			levelGauge{desc: desc, labels: []string{"min"}, value: func(l *level) float64 { least, _ := l.boundsOfQueuesLocked(); return least / 1e9 }},
			levelGauge{desc: desc, labels: []string{"max"}, value: func(l *level) float64 { _, greatest := l.boundsOfQueuesLocked(); return greatest / 1e9 }})
	}
	perLevel("nominal_limit_seats", "Seats by configuration.", func(l *level) float64 { return float64(l.mu.nominal) })
	perLevel("request_concurrency_limit", "Seats by configuration.", func(l *level) float64 { return float64(l.mu.nominal) })
	perLevel("lower_limit_seats", "Seats that are never lent.", func(l *level) float64 { return float64(l.mu.bounds.lower) })
	perLevel("upper_limit_seats", "Seats with all that may be borrowed.", func(l *level) float64 { return float64(l.mu.upper) })
	perLevel("current_limit_seats", "Seats at present.", func(l *level) float64 { return float64(l.mu.limit) })
	perLevel("demand_seats_high_watermark", "Highest demand of the last period.", func(l *level) float64 { return l.mu.demand.highest })
	perLevel("demand_seats_average", "Average demand of the last period.", func(l *level) float64 { return l.mu.demand.average })
	perLevel("demand_seats_stdev", "Standard deviation of the demand in the last period.", func(l *level) float64 { return l.mu.demand.deviation })
	perLevel("demand_seats_smoothed", "Demand smoothed over some minutes.", func(l *level) float64 { return l.mu.demand.smoothed })
	perLevel("current_r", "Virtual time.", func(l *level) float64 { return l.mu.virtual / 1e9 })
	perLevel("dispatch_r", "Virtual time of the last dispatch.", func(l *level) float64 { return l.mu.dispatched / 1e9 })
	perLevel("latest_s", "Virtual start of the last request that was dispatched.", func(l *level) float64 { return l.mu.started / 1e9 })
	perBound("next_s_bounds", "Least and greatest virtual start of the queues' next requests.")
	perBound("next_discounted_s_bounds", "The same, less what executing requests are taken to need more than they do; nothing is discounted here.")
	perFlow := func(name, help string, value func(*flowMetrics) float64) {
		m.flowGauges = append(m.flowGauges, flowGauge{prometheus.NewDesc(prefix+name, help, both, nil), value})
	}
	perFlow("current_executing_requests", "Requests that hold seats.", func(f *flowMetrics) float64 { return float64(f.executing.Load()) })
	perFlow("current_executing_seats", "Seats that are held.", func(f *flowMetrics) float64 { return float64(f.seats.Load()) })
	perFlow("request_concurrency_in_use", "Seats that are held.", func(f *flowMetrics) float64 { return float64(f.seats.Load()) })
	perFlow("current_inqueue_requests", "Requests that wait.", func(f *flowMetrics) float64 { return float64(f.waiting.Load()) })
	perFlow("current_inqueue_seats", "Seats that are waited for.", func(f *flowMetrics) float64 { return float64(f.waitingSeats.Load()) })
	return m
}

func (m *metrics) flow(level, schema string) *flowMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.flowsByLevel[level] == nil {
		m.flowsByLevel[level] = map[string]*flowMetrics{}
	}
	f := m.flowsByLevel[level][schema]
	if f == nil {
		f = &flowMetrics{
			dispatched: m.dispatched.WithLabelValues(level, schema),
			waited:     m.waited.WithLabelValues(level, schema, "true"), waitedInVain: m.waited.WithLabelValues(level, schema, "false"),
			executed:    m.executed.WithLabelValues(level, schema, "regular"),
			trailed:     m.executed.WithLabelValues(level, schema, "extra"),
			watchers:    m.watchers.WithLabelValues(level, schema),
			queueLength: m.queueLength.WithLabelValues(level, schema),
			width:       m.width.WithLabelValues(level, schema),
			rejected:    func(reason string) { m.rejected.WithLabelValues(level, schema, reason).Inc() },
		}
		m.flowsByLevel[level][schema] = f
	}
	return f
}

func (m *metrics) forget(level string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.flowsByLevel, level)
	for _, v := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{m.dispatched, m.rejected, m.waited, m.executed, m.queueLength, m.width, m.target, m.demand, m.utilization, m.requests, m.watchers} {
		v.DeletePartialMatch(prometheus.Labels{labelLevel: level})
	}
}

func (m *metrics) vectors() []prometheus.Collector {
	return []prometheus.Collector{m.dispatched, m.rejected, m.waited, m.executed, m.queueLength, m.width, m.target, m.demand, m.utilization, m.requests, m.watchers, m.fairFrac}
}

// Describe implements prometheus.Collector.
func (c *Controller) Describe(out chan<- *prometheus.Desc) {
	for _, v := range c.metrics.vectors() {
		v.Describe(out)
	}
	for _, g := range c.metrics.levelGauges {
		out <- g.desc
	}
	for _, g := range c.metrics.flowGauges {
		out <- g.desc
	}
}

// Collect implements prometheus.Collector.
func (c *Controller) Collect(out chan<- prometheus.Metric) {
	m := c.metrics
	for _, v := range m.vectors() {
		v.Collect(out)
	}
	for _, l := range *m.levels.Load() {
		l.mu.Lock()
		values := make([]float64, len(m.levelGauges))
		for i, g := range m.levelGauges {
			values[i] = g.value(l)
		}
		l.mu.Unlock()
		for i, g := range m.levelGauges {
			out <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, values[i], append([]string{l.name}, g.labels...)...)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for level, flows := range m.flowsByLevel {
		for schema, f := range flows {
			for _, g := range m.flowGauges {
				out <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value(f), level, schema)
			}
		}
	}
}
