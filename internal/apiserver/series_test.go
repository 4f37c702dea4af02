package apiserver

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestObservingAllocatesNothing is about requests of a kind that has been seen
// before.
func TestObservingAllocatesNothing(t *testing.T) {
	m := newMetrics(&Config{Registry: prometheus.NewRegistry()})
	for _, r := range []*http.Request{
		httptest.NewRequest("GET", "/api/v1/namespaces/default/pods/p", nil),
		httptest.NewRequest("GET", "/api/v1/pods", nil),
		httptest.NewRequest("GET", "/api/v1/pods?watch=1", nil),
		httptest.NewRequest("GET", "/livez", nil),
	} {
		info := parseRequest(r)
		key := seriesKey{verb: info.label(r), GroupVersion: info.GroupVersion, resource: info.Resource, scope: info.scope()}
		if !info.IsResource {
			key.subresource = info.Path
		}
		m.series.known[key] = m.newSeries(key, info)
		m.series.known[key].code(200)
		rec := newRecorder(httptest.NewRecorder(), r, info.longRunning())
		if n := testing.AllocsPerRun(100, func() {
			o := m.begin(nil, info, r)
			o.end(rec, outcome{}, 200, 1000)
		}); n > 0 {
			t.Errorf("%s: %v allocations", r.URL, n)
		}
	}
}
