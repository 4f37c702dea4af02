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
	waited, waitedInVain, executed          prometheus.Observer
	queueLength, width                      prometheus.Observer
	rejected                                func(reason string)
	executing, seats, waiting, waitingSeats atomic.Int64
}

type levelGauge struct {
	desc  *prometheus.Desc
	value func(*level) float64
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
		target: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: prefix + "target_seats", Help: "Seats that a level should get by its demand.",
		}, []string{labelLevel}),
		fairFrac:     prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "seat_fair_frac", Help: "Fraction of their targets that all levels get."}),
		flowsByLevel: map[string]map[string]*flowMetrics{},
	}
	perLevel := func(name, help string, value func(*level) float64) {
		m.levelGauges = append(m.levelGauges, levelGauge{prometheus.NewDesc(prefix+name, help, []string{labelLevel}, nil), value})
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
	}{m.dispatched, m.rejected, m.waited, m.executed, m.queueLength, m.width, m.target} {
		v.DeletePartialMatch(prometheus.Labels{labelLevel: level})
	}
}

func (m *metrics) vectors() []prometheus.Collector {
	return []prometheus.Collector{m.dispatched, m.rejected, m.waited, m.executed, m.queueLength, m.width, m.target, m.fairFrac}
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
			out <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, values[i], l.name)
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
