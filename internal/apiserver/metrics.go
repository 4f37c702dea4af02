package apiserver

import (
	"context"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/features"
	"skiff/internal/identity"
)

// metrics are the HTTP server's own, under upstream's names. Whatever happens
// with each request finds its counters without an allocation.
type metrics struct {
	handler http.Handler

	// Of requests, by what they ask for (see series).
	requests, aborts, terminations *prometheus.CounterVec
	duration, sli, slo, sizes      *prometheus.HistogramVec
	bodies                         *prometheus.HistogramVec
	longRun, deprecated            *prometheus.GaugeVec
	series                         seriesTable

	validation map[string]prometheus.Observer
	inFlight   map[bool]prometheus.Gauge // by whether they change something
	inQueue    map[bool]prometheus.Gauge
	crowding   map[bool]crowding
	afterTime  *prometheus.CounterVec
	handshakes prometheus.Counter

	// Of the steps before the answer.
	filters        [filterCount]prometheus.Observer
	authentication map[string]attempts
	authorization  map[string]attempts
	users          *prometheus.CounterVec
	certificates   prometheus.Histogram
	// Of acting as somebody else, by mode and decision: as a whole, and of the
	// questions to the authorizer.
	impersonation, impersonationRights modeAttempts

	// Of watches.
	events, initEvents     *prometheus.CounterVec
	eventSizes, watchLists *prometheus.HistogramVec
	discovery              prometheus.Counter
}

// crowding samples how many requests of a kind there are when one arrives.
type crowding struct {
	waiting, executing prometheus.Observer
	now                *present
}

// present are the requests of a kind that there are.
type present struct{ waiting, executing atomic.Int64 }

func (c *crowding) sample(seats int) {
	c.waiting.Observe(float64(c.now.waiting.Load()) / float64(max(1, seats)))
	c.executing.Observe(float64(c.now.executing.Load()) / float64(max(1, seats)))
}

// attempts are the counters of one result.
type attempts struct {
	count    prometheus.Counter
	duration prometheus.Observer
}

// modeAttempts count attempts by mode of impersonation and decision.
type modeAttempts struct {
	count    *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// observe counts an attempt in a mode that began at the given time.
func (a *modeAttempts) observe(mode string, allowed bool, began time.Time) {
	decision := resultDenied
	if allowed {
		decision = resultAllowed
	}
	a.count.WithLabelValues(mode, decision).Inc()
	a.duration.WithLabelValues(mode, decision).Observe(time.Since(began).Seconds())
}

// filter is a step that requests pass before they are carried out.
type filter int

const (
	filterAuthentication filter = iota
	filterAudit
	filterImpersonation
	filterFlowControl
	filterAuthorization
	filterCount
)

// The results of authentication and authorization, by upstream's names.
const (
	resultSuccess   = "success"
	resultFailure   = "failure"
	resultError     = "error"
	resultAllowed   = "allowed"
	resultDenied    = "denied"
	resultNoOpinion = "no-opinion"
)

// ofResource are the labels of what requests ask for.
var ofResource = []string{"group", "version", "resource"}

func newMetrics(c *Config) *metrics {
	reg := c.Registry
	auto := promauto.With(reg)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return auto.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return auto.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return auto.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	of := []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}
	withDryRun := []string{"verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"}
	seconds := []float64{0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}
	attempt := prometheus.ExponentialBuckets(0.001, 2, 15)

	m := &metrics{
		requests:     counter("apiserver_request_total", "Requests by what they ask for and status code.", append(withDryRun[:len(withDryRun):len(withDryRun)], "code")...),
		aborts:       counter("apiserver_request_aborts_total", "Requests that were broken off.", of[:len(of)-1]...),
		terminations: counter("apiserver_request_terminations_total", "Requests that the server ended to protect itself.", append(of[:len(of):len(of)], "code")...),
		duration: histogram("apiserver_request_duration_seconds", "Time from a request's arrival to the end of its answer.",
			append([]float64{0.005, 0.025}, seconds...), withDryRun...),
		sli:        histogram("apiserver_request_sli_duration_seconds", "The same without waiting for a turn and for webhooks.", seconds, of...),
		slo:        histogram("apiserver_request_slo_duration_seconds", "The older name of apiserver_request_sli_duration_seconds.", seconds, of...),
		sizes:      histogram("apiserver_response_sizes", "Bytes of the answers to reads.", prometheus.ExponentialBuckets(1000, 10, 7), of...),
		bodies:     histogram("apiserver_request_body_size_bytes", "Bytes of requests' bodies.", prometheus.LinearBuckets(50000, 100000, 31), "group", "resource", "verb"),
		longRun:    gauge("apiserver_longrunning_requests", "Watches and streams that are open.", of...),
		deprecated: gauge("apiserver_requested_deprecated_apis", "Deprecated APIs that were asked for.", "group", "version", "resource", "subresource", "removed_release"),
		validation: map[string]prometheus.Observer{},
		inFlight:   map[bool]prometheus.Gauge{},
		inQueue:    map[bool]prometheus.Gauge{},
		crowding:   map[bool]crowding{},
		afterTime:  counter("apiserver_request_post_timeout_total", "Handlers that went on after their request was answered for them.", "source", "status"),
		handshakes: auto.NewCounter(prometheus.CounterOpts{Name: "apiserver_tls_handshake_errors_total", Help: "Connections whose TLS handshake failed."}),

		authentication: map[string]attempts{},
		authorization:  map[string]attempts{},
		users:          counter("authenticated_user_requests", "Requests by kind of user name.", "username"),
		certificates: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "apiserver_client_certificate_expiration_seconds", Help: "Life that is left of the certificates that requests come with.",
			Buckets: []float64{0, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 345600, 604800, 2592000, 7776000, 15552000, 31104000},
		}),

		events:     counter("apiserver_watch_events_total", "Events that were sent to watchers.", ofResource...),
		initEvents: counter("apiserver_init_events_total", "Events with which watches told the state at their start.", "group", "resource"),
		eventSizes: histogram("apiserver_watch_events_sizes", "Bytes of the events that were sent to watchers.", prometheus.ExponentialBuckets(1024, 2, 8), ofResource...),
		watchLists: histogram("apiserver_watch_list_duration_seconds", "Time until a watch had told the state at its start.",
			[]float64{0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 15, 20, 30, 45, 60}, append(ofResource[:len(ofResource):len(ofResource)], "scope")...),
		discovery: auto.NewCounter(prometheus.CounterOpts{Name: "aggregator_discovery_aggregation_count_total", Help: "Times that the aggregated discovery document was made."}),
	}
	m.impersonation = modeAttempts{
		counter("apiserver_impersonation_attempts_total", "Requests to act as somebody else.", "mode", "decision"),
		histogram("apiserver_impersonation_attempts_duration_seconds", "Time that the decision about them takes.", attempt, "mode", "decision"),
	}
	m.impersonationRights = modeAttempts{
		counter("apiserver_impersonation_authorization_attempts_total", "Rights that were asked for because of them.", "mode", "decision"),
		histogram("apiserver_impersonation_authorization_attempts_duration_seconds", "Time that the answer takes.", attempt, "mode", "decision"),
	}
	m.series.known = map[seriesKey]*series{}
	readWrite := histogram("apiserver_flowcontrol_read_vs_write_current_requests", "Requests of a kind, as a part of all seats, when one arrives.",
		[]float64{0, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1}, "phase", "request_kind")
	inFlight := gauge("apiserver_current_inflight_requests", "Requests that are being answered, by kind.", "request_kind")
	inQueue := gauge("apiserver_current_inqueue_requests", "Requests that wait for their turn, by kind.", "request_kind")
	for mutating, kind := range map[bool]string{false: "readOnly", true: "mutating"} {
		m.crowding[mutating] = crowding{waiting: readWrite.WithLabelValues("waiting", kind), executing: readWrite.WithLabelValues("executing", kind), now: new(present)}
		m.inFlight[mutating], m.inQueue[mutating] = inFlight.WithLabelValues(kind), inQueue.WithLabelValues(kind)
	}
	validation := histogram("field_validation_request_duration_seconds", "Time that requests take, by how strict their fields are checked.", seconds, "field_validation")
	for _, v := range []string{"", "Ignore", "Warn", "Strict", invalid} {
		m.validation[v] = validation.WithLabelValues(v)
	}
	filters := histogram("apiserver_request_filter_duration_seconds", "Time that requests spend on the way to being carried out.",
		[]float64{0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 5, 10, 15, 30}, "filter")
	for f, name := range map[filter]string{
		filterAuthentication: "authentication", filterAudit: "audit", filterImpersonation: "impersonation",
		filterFlowControl: "priorityandfairness", filterAuthorization: "authorization",
	} {
		m.filters[f] = filters.WithLabelValues(name)
	}
	attemptsOf := func(into map[string]attempts, total, took, help string, results ...string) {
		count, duration := counter(total, help, "result"), histogram(took, "Time that this takes.", attempt, "result")
		for _, r := range results {
			into[r] = attempts{count.WithLabelValues(r), duration.WithLabelValues(r)}
		}
	}
	attemptsOf(m.authentication, "authentication_attempts", "authentication_duration_seconds",
		"Requests by whether it is known who made them.", resultSuccess, resultFailure, resultError)
	attemptsOf(m.authorization, "authorization_attempts_total", "authorization_duration_seconds",
		"Requests by whether they were allowed.", resultAllowed, resultDenied, resultNoOpinion, resultError)

	v := Version()
	gauge("kubernetes_build_info", "What this was built from.", "major", "minor", "git_version", "git_commit", "git_tree_state", "build_date", "go_version", "compiler", "platform").
		WithLabelValues(v.Major, v.Minor, v.GitVersion, v.GitCommit, v.GitTreeState, v.BuildDate, v.GoVersion, v.Compiler, v.Platform).Set(1)
	gauge("version_info", "The versions that the server stands for.", "component", "binary", "emulation", "min_compat").
		WithLabelValues("kube", v.Major+"."+v.Minor, v.EmulationMajor+"."+v.EmulationMinor, v.MinCompatibilityMajor+"."+v.MinCompatibilityMinor).Set(1)
	reg.MustRegister(collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsAll)),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	enabled := gauge("kubernetes_feature_enabled", "Whether an optional feature is on (1).", "name", "stage")
	for _, g := range features.Gates() {
		value := 0.0
		if c.Features.Enabled(g.Name) {
			value = 1
		}
		enabled.WithLabelValues(g.Name, g.Stage).Set(value)
	}
	reg.MustRegister(c.Collectors...)
	m.handler = promhttp.HandlerFor(&exposition{reg, c.DisabledMetrics}, promhttp.HandlerOpts{})
	return m
}

// passed tells how long a step took that began at the given time, and returns
// the present.
func (m *metrics) passed(f filter, began time.Time) time.Time {
	now := time.Now()
	m.filters[f].Observe(now.Sub(began).Seconds())
	return now
}

// authenticated counts an authentication.
func (m *metrics) authenticated(r *http.Request, user *identity.User, failure error, began time.Time) {
	result := resultFailure
	switch {
	case user != nil:
		result = resultSuccess
		m.users.WithLabelValues(kindOfUser(user.Name)).Inc()
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			m.certificates.Observe(max(0, time.Until(r.TLS.PeerCertificates[0].NotAfter).Seconds()))
		}
	case failure != nil:
		result = resultError
	}
	a := m.authentication[result]
	a.count.Inc()
	a.duration.Observe(time.Since(began).Seconds())
}

// kindOfUser is what metrics say of a user: not who it is.
func kindOfUser(name string) string {
	switch name {
	case "admin", "client", "kube_proxy", "kubelet", "system:serviceaccount:kube-system:default":
		return name
	}
	if strings.Contains(name, "@") {
		return "email_id"
	}
	return "other"
}

// authorized counts an authorization.
func (m *metrics) authorized(d authz.Decision, err error, began time.Time) {
	result := resultNoOpinion
	switch {
	case d == authz.Allow:
		result = resultAllowed
	case err != nil:
		result = resultError
	case d == authz.Deny:
		result = resultDenied
	}
	a := m.authorization[result]
	a.count.Inc()
	a.duration.Observe(time.Since(began).Seconds())
}

// endedLate counts a handler that went on after its time.
func (m *metrics) endedLate(out outcome) {
	status := "ok"
	if out.panicked != nil {
		status = "panic"
	}
	m.afterTime.WithLabelValues("timeout-handler", status).Inc()
}

// handshakes counts what the HTTP server says of handshakes in its log.
type handshakes struct {
	slog.Handler
	failed prometheus.Counter
}

// Enabled lets everything through to Handle.
func (h handshakes) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (h handshakes) Handle(ctx context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "TLS handshake error") {
		h.failed.Inc()
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func goVersion() string { return runtime.Version() }
func platform() string  { return runtime.GOOS + "/" + runtime.GOARCH }
