package admission

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// step is one of the two passes over the plug-ins.
type step int

const (
	admit step = iota
	validate
	steps
)

func (s step) String() string { return [steps]string{"admit", "validate"}[s] }

// operations are those whose time is taken apart.
var operations = [...]Operation{Create, Update, Delete, Connect}

// Timer tells how long a plug-in takes. Its series are made when they are first
// needed, and then found without a search.
type Timer struct {
	name   string
	family *prometheus.HistogramVec
	series [steps][len(operations)][2]atomic.Pointer[prometheus.Observer]
}

// Timed returns the plug-in with its time taken, by upstream's name of it. A
// nil *Metrics returns it as it is.
func (m *Metrics) Timed(name string, plugin any) any {
	if m == nil || name == "" {
		return plugin
	}
	return &Timed{plugin, &Timer{name: name, family: m.controller}}
}

func (t *Timer) observe(s step, o Operation, rejected bool, took time.Duration) {
	for i, known := range operations {
		if known != o {
			continue
		}
		outcome := 0
		if rejected {
			outcome = 1
		}
		slot := &t.series[s][i][outcome]
		series := slot.Load()
		if series == nil {
			made := t.family.WithLabelValues(t.name, s.String(), string(o), strconv.FormatBool(rejected))
			series = &made
			slot.Store(series)
		}
		(*series).Observe(took.Seconds())
	}
}

// stopwatch takes the time of one plug-in after the other. It looks at the clock
// once for each: what is between them takes no time.
type stopwatch struct {
	step step
	a    *Attributes
	last time.Time
}

func (w *stopwatch) start(t *Timer) {
	if t != nil && w.last.IsZero() {
		w.last = time.Now()
	}
}

func (w *stopwatch) stop(t *Timer, err error) {
	if t == nil {
		w.last = time.Time{}
		return
	}
	now := time.Now()
	t.observe(w.step, w.a.Operation, err != nil, now.Sub(w.last))
	w.last = now
}
