package apiserver

import (
	"encoding/json"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

// metrics are the server's own, in a registry of its own, under upstream's
// names.
type metrics struct {
	handler  http.Handler
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inflight *prometheus.GaugeVec
	longRun  *prometheus.GaugeVec

	authentications *prometheus.CounterVec
	authorizations  *prometheus.CounterVec
}

func newMetrics(more []prometheus.Collector) *metrics {
	reg := prometheus.NewRegistry()
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total", Help: "Requests by verb, resource and status code.",
		}, []string{"verb", "group", "version", "resource", "subresource", "scope", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_request_duration_seconds", Help: "Time from a request's first byte to the end of its answer.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60},
		}, []string{"verb", "group", "version", "resource", "subresource", "scope"}),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_current_inflight_requests", Help: "Requests that are being answered, by kind.",
		}, []string{"request_kind"}),
		longRun: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_longrunning_requests", Help: "Watches and streams that are open.",
		}, []string{"verb", "group", "version", "resource", "subresource", "scope"}),
		authentications: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "authentication_attempts", Help: "Requests by whether it is known who made them.",
		}, []string{"result"}),
		authorizations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "authorization_attempts_total", Help: "Requests by whether they were allowed.",
		}, []string{"result"}),
	}
	reg.MustRegister(more...)
	reg.MustRegister(m.authentications, m.authorizations, m.requests, m.duration, m.inflight, m.longRun,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	return m
}

// authenticated counts an authentication.
func (m *metrics) authenticated(user *identity.User, failure error) {
	result := "failure"
	switch {
	case user != nil:
		result = "success"
	case failure != nil:
		result = "error"
	}
	m.authentications.WithLabelValues(result).Inc()
}

// authorized counts an authorization.
func (m *metrics) authorized(d authz.Decision) {
	result := map[authz.Decision]string{authz.Allow: "allowed", authz.Deny: "denied", authz.NoOpinion: "no-opinion"}[d]
	m.authorizations.WithLabelValues(result).Inc()
}

// begin counts a request; the result is called with the status code at its
// end.
func (m *metrics) begin(info *requestInfo) func(code int) {
	start := time.Now()
	labels := []string{info.Verb, info.GroupVersion.Group, info.GroupVersion.Version, info.Resource, info.Subresource, info.scope()}
	if info.longRunning() {
		g := m.longRun.WithLabelValues(labels...)
		g.Inc()
		return func(code int) {
			g.Dec()
			m.requests.WithLabelValues(append(labels, strconv.Itoa(code))...).Inc()
		}
	}
	kind := "readOnly"
	if info.mutating() {
		kind = "mutating"
	}
	g := m.inflight.WithLabelValues(kind)
	g.Inc()
	return func(code int) {
		g.Dec()
		m.duration.WithLabelValues(labels...).Observe(time.Since(start).Seconds())
		m.requests.WithLabelValues(append(labels, strconv.Itoa(code))...).Inc()
	}
}

// scope is upstream's metric label: what a request ranges over.
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

func goVersion() string { return runtime.Version() }
func platform() string  { return runtime.GOOS + "/" + runtime.GOARCH }

func writeJSON(w http.ResponseWriter, r *http.Request, code int, v any) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		writeError(w, r, apierrors.NewInternalError(err))
		return
	}
	writeBytes(w, r, &mediaType{Media: mediaJSON}, code, data)
}
