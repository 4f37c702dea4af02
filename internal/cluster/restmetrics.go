package cluster

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// restMetrics are upstream's of clients: of those that use the API over HTTP
// though they are in this process.
type restMetrics struct {
	requests                 *prometheus.CounterVec
	duration, sent, received *prometheus.HistogramVec
}

func newRESTMetrics(reg prometheus.Registerer) *restMetrics {
	auto := promauto.With(reg)
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return auto.NewHistogramVec(prometheus.HistogramOpts{Name: "rest_client_" + name, Help: help, Buckets: buckets}, []string{"verb", "host"})
	}
	sizes := []float64{64, 256, 512, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216}
	return &restMetrics{
		requests: auto.NewCounterVec(prometheus.CounterOpts{Name: "rest_client_requests_total", Help: "Requests by status code, method and host."}, []string{"code", "method", "host"}),
		duration: histogram("request_duration_seconds", "Time until the head of the answer.", []float64{0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60}),
		sent:     histogram("request_size_bytes", "Bytes of requests' bodies.", sizes),
		received: histogram("response_size_bytes", "Bytes of answers that say how long they are.", sizes),
	}
}

// wrap returns a transport that counts what goes through.
func (m *restMetrics) wrap(t http.RoundTripper) http.RoundTripper { return &countingTransport{t, m} }

type countingTransport struct {
	http.RoundTripper
	*restMetrics
}

// WrappedRoundTripper lets others find the transport below.
func (t *countingTransport) WrappedRoundTripper() http.RoundTripper { return t.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t *countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	response, err := t.RoundTripper.RoundTrip(r)
	host, code := r.URL.Host, "<error>"
	t.duration.WithLabelValues(r.Method, host).Observe(time.Since(began).Seconds())
	if r.ContentLength > 0 {
		t.sent.WithLabelValues(r.Method, host).Observe(float64(r.ContentLength))
	}
	if err == nil {
		code = strconv.Itoa(response.StatusCode)
		if response.ContentLength >= 0 {
			t.received.WithLabelValues(r.Method, host).Observe(float64(response.ContentLength))
		}
	}
	t.requests.WithLabelValues(code, r.Method, host).Inc()
	return response, err
}
