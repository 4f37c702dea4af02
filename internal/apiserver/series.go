package apiserver

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/apiserver/verbs"
)

// component is the label that tells this server's metrics from an extension
// server's.
const component = "apiserver"

// invalid stands for options that are no good, of which there are too many for
// labels of their own.
const invalid = "invalid"

// seriesKey is what requests are told apart by in metrics. There are as many as
// there are served resources and ways to use them: what is not served has no
// resource here.
type seriesKey struct {
	verb, dryRun string
	schema.GroupVersion
	resource, subresource, scope string
}

// series are the metrics of the requests of one key.
type series struct {
	key      seriesKey
	vectors  *metrics
	duration prometheus.Observer
	// sli and slo are nil for dry runs, sizes where the answer's size is of no
	// interest, bodies where there is none.
	sli, slo, sizes, bodies prometheus.Observer
	longRun                 prometheus.Gauge
	// codes is replaced, never changed.
	codes atomic.Pointer[map[int]prometheus.Counter]
}

type seriesTable struct {
	sync.RWMutex
	known map[seriesKey]*series
}

// find returns the series of a request.
func (m *metrics) find(v *verbs.Server, info *requestInfo, r *http.Request) *series {
	key := seriesKey{verb: info.label(r), dryRun: dryRunLabel(r.URL)}
	if info.IsResource {
		key.GroupVersion, key.resource, key.subresource, key.scope = info.GroupVersion, info.Resource, info.Subresource, info.scope()
	} else if isHealthPath(info.Path) {
		key.subresource = info.Path
	}
	m.series.RLock()
	s := m.series.known[key]
	m.series.RUnlock()
	if s != nil {
		return s
	}
	if info.IsResource && !served(v, info) {
		key.GroupVersion, key.resource, key.subresource, key.scope = schema.GroupVersion{}, "", "", ""
	}
	m.series.Lock()
	defer m.series.Unlock()
	if s := m.series.known[key]; s != nil {
		return s
	}
	s = m.newSeries(key, info)
	m.series.known[key] = s
	return s
}

func (m *metrics) newSeries(k seriesKey, info *requestInfo) *series {
	s := &series{key: k, vectors: m, duration: m.duration.WithLabelValues(k.verb, k.dryRun, k.Group, k.Version, k.resource, k.subresource, k.scope, component)}
	s.codes.Store(&map[int]prometheus.Counter{})
	labels := k.labels()
	if k.dryRun == "" {
		s.sli, s.slo = m.sli.WithLabelValues(labels...), m.slo.WithLabelValues(labels...)
	}
	if k.verb == "GET" || k.verb == "LIST" {
		s.sizes = m.sizes.WithLabelValues(labels...)
	}
	if info.mutating() && k.resource != "" {
		s.bodies = m.bodies.WithLabelValues(k.Group, k.resource, info.Verb)
	}
	if info.longRunning() {
		s.longRun = m.longRun.WithLabelValues(labels...)
	}
	return s
}

func (k *seriesKey) labels() []string {
	return []string{k.verb, k.Group, k.Version, k.resource, k.subresource, k.scope, component}
}

// code returns the counter of the requests with a status code.
func (s *series) code(code int) prometheus.Counter {
	for {
		old := s.codes.Load()
		if c := (*old)[code]; c != nil {
			return c
		}
		k := s.key
		c := s.vectors.requests.WithLabelValues(k.verb, k.dryRun, k.Group, k.Version, k.resource, k.subresource, k.scope, component, strconv.Itoa(code))
		fresh := make(map[int]prometheus.Counter, len(*old)+1)
		for k, v := range *old {
			fresh[k] = v
		}
		fresh[code] = c
		if s.codes.CompareAndSwap(old, &fresh) {
			return c
		}
	}
}

// observation is a request that is being observed.
type observation struct {
	*series
	info       *requestInfo
	began      time.Time
	validation string
}

// begin counts a request, until the end of what it returns.
func (m *metrics) begin(v *verbs.Server, info *requestInfo, r *http.Request) observation {
	o := observation{series: m.find(v, info, r), info: info, began: time.Now(), validation: validationLabel(r.URL)}
	if o.longRun != nil {
		o.longRun.Inc()
	} else {
		m.inFlight[info.mutating()].Inc()
	}
	return o
}

func (o *observation) end(rec *recorder, out outcome, code int, size int64) {
	m := o.vectors
	o.code(code).Inc()
	if out.panicked == http.ErrAbortHandler {
		k := o.key
		m.aborts.WithLabelValues(k.verb, k.Group, k.Version, k.resource, k.subresource, k.scope).Inc()
	} else if out.late || out.panicked != nil {
		m.terminations.WithLabelValues(append(o.key.labels(), strconv.Itoa(code))...).Inc()
	}
	if o.longRun != nil {
		o.longRun.Dec()
		return
	}
	m.inFlight[o.info.mutating()].Dec()
	took := time.Since(o.began).Seconds()
	o.duration.Observe(took)
	m.validation[o.validation].Observe(took)
	if out.late {
		// The rest is still the handler's.
		return
	}
	if o.sli != nil {
		own := took - rec.waited.Seconds()
		o.sli.Observe(own)
		o.slo.Observe(own)
	}
	if o.sizes != nil {
		o.sizes.Observe(float64(size))
	}
	if o.bodies != nil && rec.body.size > 0 {
		o.bodies.Observe(float64(rec.body.size))
	}
}

// watching is what is counted of one watch.
type watching struct {
	metrics *metrics
	version *verbs.Version
	events  prometheus.Counter
	sizes   prometheus.Observer
	began   time.Time
	// initial says that the state at the start is still to be told, and list that
	// the client asked for it in place of a list.
	initial, list bool
}

func (m *metrics) watching(v *verbs.Version) watching {
	return watching{
		metrics: m, version: v, began: time.Now(),
		events: m.events.WithLabelValues(v.Group, v.Version.Version, v.Resource().Names.Resource),
		sizes:  m.eventSizes.WithLabelValues(v.Group, v.Version.Version, v.Resource().Names.Resource),
	}
}

// starting counts the events that tell the state at the start.
func (w *watching) starting(events int) {
	if w.initial {
		w.metrics.initEvents.WithLabelValues(w.version.Group, w.version.Resource().Names.Resource).Add(float64(events))
	}
}

// started tells that they have been sent.
func (w *watching) started(r *http.Request) {
	if w.initial && w.list {
		w.metrics.watchLists.WithLabelValues(w.version.Group, w.version.Version.Version, w.version.Resource().Names.Resource, parseRequest(r).scope()).
			Observe(time.Since(w.began).Seconds())
	}
	w.initial = false
}

// askedDeprecated notes that a deprecated version was asked for.
func (m *metrics) askedDeprecated(info *requestInfo) {
	m.deprecated.WithLabelValues(info.GroupVersion.Group, info.GroupVersion.Version, info.Resource, info.Subresource, "").Set(1)
}

// served reports whether a request is for something that there is.
func served(v *verbs.Server, info *requestInfo) bool {
	res := v.Lookup(schema.GroupResource{Group: info.GroupVersion.Group, Resource: info.Resource})
	if res == nil {
		return false
	}
	version := res.Version(info.GroupVersion)
	return version != nil && (info.Subresource == "" || version.Has(info.Subresource) || res.Subresource(info.Subresource) != nil)
}

// label is the verb as metrics have it.
func (i *requestInfo) label(r *http.Request) string {
	if !i.IsResource {
		switch r.Method {
		case http.MethodHead:
			return http.MethodGet
		case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
			return r.Method
		}
		return "OTHER"
	}
	switch i.Subresource {
	case "exec", "attach", "portforward", "log", "proxy":
		return "CONNECT"
	}
	switch i.Verb {
	case "get":
		return "GET"
	case "list":
		// A list by name is no longer one.
		if i.scope() == "resource" {
			return "GET"
		}
		return "LIST"
	case "watch":
		return "WATCH"
	case "create":
		return "POST"
	case "update":
		return "PUT"
	case "delete", "deletecollection":
		return "DELETE"
	case "patch":
		switch types.PatchType(r.Header.Get("Content-Type")) {
		case types.ApplyYAMLPatchType, types.ApplyCBORPatchType:
			return "APPLY"
		}
		return "PATCH"
	}
	return "OTHER"
}

// scope is what a request ranges over.
func (i *requestInfo) scope() string {
	switch {
	case !i.IsResource:
		return ""
	case i.Name != "" || i.Verb == "create":
		return "resource"
	case i.Namespace != "":
		return "namespace"
	}
	return "cluster"
}

func isHealthPath(path string) bool {
	switch path {
	case "/healthz", "/livez", "/readyz":
		return true
	}
	return false
}

// option reads one option of a query, without parsing a query that lacks it.
func option(u *url.URL, name string) []string {
	if !strings.Contains(u.RawQuery, name) {
		return nil
	}
	return u.Query()[name]
}

func dryRunLabel(u *url.URL) string {
	for _, v := range option(u, "dryRun") {
		if v != metav1.DryRunAll {
			return invalid
		}
	}
	if option(u, "dryRun") != nil {
		return metav1.DryRunAll
	}
	return ""
}

func validationLabel(u *url.URL) string {
	v := option(u, "fieldValidation")
	if len(v) == 0 {
		return ""
	}
	switch v[0] {
	case "", metav1.FieldValidationIgnore, metav1.FieldValidationWarn, metav1.FieldValidationStrict:
		return v[0]
	}
	return invalid
}
