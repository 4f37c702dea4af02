package apiserver_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver"
	"skiff/internal/cluster"
	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

// everyone lets every request in as an administrator.
type everyone struct{}

func (everyone) Authenticate(*http.Request) (*identity.User, error) { return identity.Loopback(), nil }

// front runs a second HTTP server over a cluster's state, with handlers of the
// test's own, and returns clients of HTTP/1 and HTTP/2.
func front(t *testing.T, handlers map[string]http.Handler) map[string]*caller {
	t.Helper()
	tc := testcluster.Start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := apiserver.New(apiserver.Config{
		Verbs: tc.Verbs, Authenticator: everyone{}, Handlers: handlers, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- s.Serve(ctx, l, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: tc.PKI.Serving.GetCertificate})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	conf, err := rest.TLSConfigFor(tc.Config)
	if err != nil {
		t.Fatal(err)
	}
	callers := map[string]*caller{}
	for name, protos := range map[string][]string{"HTTP/1": {"http/1.1"}, "HTTP/2": {"h2"}} {
		conf := conf.Clone()
		conf.NextProtos = protos
		transport := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: name == "HTTP/2"}
		t.Cleanup(transport.CloseIdleConnections)
		callers[name] = &caller{t, "https://" + l.Addr().String(), &http.Client{Transport: transport}}
	}
	return callers
}

// TestHandlersThatHeedNoTime has handlers that go on whatever their context
// says: the client is answered all the same.
func TestHandlersThatHeedNoTime(t *testing.T) {
	t.Parallel()
	var late atomic.Pointer[error]
	stuck := make(chan struct{})
	callers := front(t, map[string]http.Handler{
		"/stuck": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Stuck", "yes")
			<-stuck
			_, err := io.WriteString(w, "too late")
			late.Store(&err)
		}),
		"/begun": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "begun")
			_ = http.NewResponseController(w).Flush()
			<-stuck
		}),
		"/panics": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-stuck
			panic("after the time")
		}),
		"/quick": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "quick") }),
	})
	for name, c := range callers {
		for _, path := range []string{"/stuck", "/panics"} {
			got := c.do("GET", path+"?timeout=200ms", nil)
			if got.StatusCode != http.StatusGatewayTimeout || got.Header.Get("Content-Type") != "application/json" || got.Header.Get("X-Stuck") != "" ||
				!strings.Contains(got.body, `"reason":"Timeout"`) || !strings.Contains(got.body, "request did not complete within requested timeout - context deadline exceeded") {
				t.Errorf("%s %s: %d %v %s", name, path, got.StatusCode, got.Header, got.body)
			}
		}
		// What has begun cannot be taken back: the client sees that it is not whole.
		response, err := c.try("GET", "/begun?timeout=200ms", nil)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := io.ReadAll(response.Body); err == nil || string(data) != "begun" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
		response.Body.Close()
		if got := c.do("GET", "/quick?timeout=200ms", nil); got.StatusCode != 200 || got.body != "quick" {
			t.Errorf("%s, afterwards: %d %s", name, got.StatusCode, got.body)
		}
	}
	close(stuck)
	eventually(t, "the handlers to end", func() bool { return late.Load() != nil })
	if err := *late.Load(); !errors.Is(err, http.ErrHandlerTimeout) {
		t.Errorf("writing too late: %v", err)
	}
	eventually(t, "late ends to be counted", func() bool {
		text := callers["HTTP/1"].do("GET", "/metrics", nil).body
		return metric(text, `apiserver_request_post_timeout_total{source="timeout-handler",status="panic"}`) == 2 &&
			metric(text, `apiserver_request_post_timeout_total{source="timeout-handler",status="ok"}`) == 4
	})
	text := callers["HTTP/1"].do("GET", "/metrics", nil).body
	if n := metric(text, `apiserver_request_terminations_total{code="504",component="apiserver",group="",resource="",scope="",subresource="",verb="GET",version=""}`); n != 4 {
		t.Errorf("%v requests were ended for being late", n)
	}
	if n := metric(text, `apiserver_request_aborts_total{group="",resource="",scope="",subresource="",verb="GET",version=""}`); n != 2 {
		t.Errorf("%v requests were broken off", n)
	}
}

// metric reads a metric's value off /metrics; -1 if it is not there.
func metric(text, series string) float64 {
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(text)
	if m == nil {
		return -1
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return -1
	}
	return v
}

// frames is a connection in HTTP/2 whose frames the test reads itself, so that
// it can stop.
type frames struct {
	*http2.Framer
	conn net.Conn
}

func dialFrames(t *testing.T, tc *testcluster.Cluster) *frames {
	t.Helper()
	conf, err := rest.TLSConfigFor(tc.Config)
	if err != nil {
		t.Fatal(err)
	}
	conf.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(tc.URL(), "https://"), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	f := &frames{http2.NewFramer(conn, conn), conn}
	_, err = io.WriteString(conn, http2.ClientPreface)
	if err := errors.Join(err, f.WriteSettings()); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *frames) get(t *testing.T, stream uint32, path string) {
	t.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "x"}, {":path", path}} {
		if err := enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
}

// until reads frames until one will do. Settings and pings are answered; no
// window is ever made wider.
func (f *frames) until(t *testing.T, what string, want func(http2.Frame) bool) {
	t.Helper()
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("waiting for %s: %v", what, err)
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				if err := f.WriteSettingsAck(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if want(frame) {
			return
		}
	}
}

// TestStreamThatIsNotRead opens a watch over HTTP/2 whose window it never makes
// wider: the stream is cut off, and the connection stays.
func TestStreamThatIsNotRead(t *testing.T) {
	t.Parallel()
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{Limits: apiserver.Limits{WatchWriteTimeout: 300 * time.Millisecond}}})
	f := dialFrames(t, tc)
	f.get(t, 1, configMaps+"?watch=1")
	f.until(t, "the watch to begin", func(frame http2.Frame) bool { return frame.Header().Type == http2.FrameHeaders })
	// More than a stream's first window of 64 kB.
	for i := range 4 {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("big-", i)}, Data: map[string]string{"k": strings.Repeat("x", 50<<10)}}
		if err := tc.Client.Create(t.Context(), cm); err != nil {
			t.Fatal(err)
		}
	}
	f.until(t, "the stream to be cut off", func(frame http2.Frame) bool {
		return frame.Header().Type == http2.FrameRSTStream && frame.Header().StreamID == 1
	})
	f.get(t, 3, "/livez")
	f.until(t, "an answer on the same connection", func(frame http2.Frame) bool {
		return frame.Header().Type == http2.FrameHeaders && frame.Header().StreamID == 3
	})
}

// TestGoaway sees whether the server asks its clients to connect anew.
func TestGoaway(t *testing.T) {
	t.Parallel()
	for chance, anew := range map[float64]bool{0: false, 1: true} {
		tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{Limits: apiserver.Limits{GoawayChance: chance}}})
		admin := as(t, tc, "")
		reused := false
		trace := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
		admin.do("GET", "/version", nil)
		eventually(t, "the answer to GOAWAY", func() bool {
			request, err := http.NewRequestWithContext(trace, "GET", tc.URL()+"/version", nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := admin.client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if _, err := io.Copy(io.Discard, response.Body); err != nil {
				t.Fatal(err)
			}
			return reused == !anew
		})
	}
}

// TestRefusedAtTheEnd holds one request open while the server ends: new ones
// are told to come back, probes are answered, and the open one finishes.
func TestRefusedAtTheEnd(t *testing.T) {
	t.Parallel()
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{Limits: apiserver.Limits{ShutdownRetryAfter: true, RequestTimeout: 20 * time.Second}}})
	admin := as(t, tc, "")
	finish, created := admin.slowCreate("last", "")
	eventually(t, "the request to arrive", func() bool {
		return metric(admin.do("GET", "/metrics", nil).body, `apiserver_current_inflight_requests{request_kind="mutating"}`) == 1
	})
	stopped := make(chan error, 1)
	go func() { stopped <- tc.Stop() }()
	var refused answer
	eventually(t, "new requests to be refused", func() bool {
		refused = as(t, tc, "").do("GET", configMaps, nil)
		return refused.StatusCode == http.StatusTooManyRequests
	})
	if refused.Header.Get("Retry-After") != "5" || refused.body != "The apiserver is shutting down, please try again later.\n" {
		t.Errorf("%v %q", refused.Header, refused.body)
	}
	if got := as(t, tc, "").do("GET", "/readyz", nil); got.StatusCode != http.StatusInternalServerError {
		t.Errorf("readyz: %d", got.StatusCode)
	}
	if got := as(t, tc, "").do("GET", "/livez", nil); got.StatusCode != 200 {
		t.Errorf("livez: %d", got.StatusCode)
	}
	finish()
	if got := <-created; got.Response == nil || got.StatusCode != 201 {
		t.Errorf("the request in flight: %+v", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestCompression(t *testing.T) {
	t.Parallel()
	tc := testcluster.Start(t)
	admin := as(t, tc, "")
	make := func(name string, size int) {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"k": strings.Repeat("x", size)}}
		if err := tc.Client.Create(t.Context(), cm); err != nil {
			t.Fatal(err)
		}
	}
	make("small", 100<<10)
	make("big", 130<<10)
	for _, tt := range []struct {
		path, accept, want string
	}{
		{configMaps + "/small", "gzip", ""},
		{configMaps + "/big", "gzip", "gzip"},
		{configMaps + "/big", "deflate, gzip", "gzip"},
		{configMaps, "gzip", "gzip"},
		{configMaps + "/big", "identity", ""},
		{configMaps + "/big", "gzip;q=0", ""},
	} {
		got := admin.do("GET", tt.path, nil, "Accept-Encoding", tt.accept)
		if encoding := got.Header.Get("Content-Encoding"); got.StatusCode != 200 || encoding != tt.want || encoding == "gzip" && got.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s with %s: %d %v", tt.path, tt.accept, got.StatusCode, got.Header)
		}
		if tt.want == "" && !strings.Contains(got.body, `"kind":`) || tt.want == "gzip" && !strings.HasPrefix(got.body, "\x1f\x8b") {
			t.Errorf("%s with %s: the body is something else", tt.path, tt.accept)
		}
	}
}

// TestSeats reads off the metrics how many seats requests are taken to need.
func TestSeats(t *testing.T) {
	t.Parallel()
	tc := testcluster.Start(t)
	grant(t, tc, "ann")
	admin, ann := as(t, tc, ""), as(t, tc, "ann")
	for i := range 20 {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("c", i)}, Data: map[string]string{"k": strings.Repeat("x", 100_000)}}
		if err := tc.Client.Create(t.Context(), cm); err != nil {
			t.Fatal(err)
		}
	}
	const labels = `{flow_schema="global-default",priority_level="global-default"}`
	total := func() float64 {
		return max(0, metric(admin.do("GET", "/metrics", nil).body, "apiserver_flowcontrol_work_estimated_seats_sum"+labels))
	}
	// The level has 49 seats in 128 queues, of which each flow is dealt 6: a
	// request takes at most 8.
	revision := func() string {
		var list corev1.ConfigMapList
		if err := tc.Client.List(t.Context(), &list, client.InNamespace("default")); err != nil {
			t.Fatal(err)
		}
		return list.ResourceVersion
	}
	for _, tt := range []struct {
		what  string
		do    func()
		seats float64
	}{
		{"a get", func() { ann.do("GET", configMaps+"/c1", nil) }, 1},
		{"a list of two megabytes", func() { ann.do("GET", configMaps, nil) }, 8},
		{"one of two objects", func() { ann.do("GET", configMaps+"?limit=2", nil) }, 2},
		{"one by name", func() { ann.do("GET", configMaps+"?fieldSelector=metadata.name%3Dc1", nil) }, 1},
		{"a watch with the state", func() { ann.do("GET", configMaps+"?watch=1&timeoutSeconds=1", nil) }, 8},
		{"a watch from now on", func() { ann.do("GET", configMaps+"?watch=1&timeoutSeconds=1&resourceVersion="+revision(), nil) }, 1},
		{"a change that nobody watches", func() { ann.do("DELETE", configMaps+"/c19", nil) }, 1},
	} {
		before := total()
		tt.do()
		if got := total() - before; got != tt.seats {
			t.Errorf("%s: %v seats, want %v", tt.what, got, tt.seats)
		}
	}
	for range 25 {
		w, err := tc.Client.Watch(t.Context(), &corev1.ConfigMapList{}, client.InNamespace("default"))
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
	}
	before := total()
	ann.do("DELETE", configMaps+"/c18", nil)
	if got := total() - before; got != 3 {
		t.Errorf("a change with 25 watchers: %v seats, want 3", got)
	}
	text := admin.do("GET", "/metrics", nil).body
	if n := metric(text, `apiserver_flowcontrol_request_execution_seconds_count{flow_schema="global-default",priority_level="global-default",type="extra"}`); n != 1 {
		t.Errorf("seats stayed taken after %v requests, want 1", n)
	}
	if n := metric(text, "apiserver_flowcontrol_watch_count_samples_sum"+labels); n != 25 {
		t.Errorf("%v watchers were counted, want 25", n)
	}
	eventually(t, "all seats to be free again", func() bool {
		return metric(admin.do("GET", "/metrics", nil).body, "apiserver_flowcontrol_current_executing_seats"+labels) == 0
	})
}

// TestLastBookmark has a watch tell how far it has come before its time is up.
func TestLastBookmark(t *testing.T) {
	t.Parallel()
	admin := as(t, testcluster.Start(t), "")
	path := configMaps + "?watch=1&timeoutSeconds=3&resourceVersion=1"
	if got := admin.do("GET", path+"&allowWatchBookmarks=true", nil); !strings.Contains(got.body, `{"type":"BOOKMARK","object":{"kind":"ConfigMap"`) {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	if got := admin.do("GET", path, nil); strings.Contains(got.body, "BOOKMARK") {
		t.Errorf("nobody asked for it: %s", got.body)
	}
}

func TestRequestMetrics(t *testing.T) {
	t.Parallel()
	admin := as(t, testcluster.Start(t), "")
	admin.do("GET", "/api/v1/namespaces", nil)
	admin.do("GET", configMaps+"/nope", nil)
	admin.do("POST", configMaps+"?dryRun=All", strings.NewReader(`{"metadata":{"name":"x"}}`))
	admin.do("PATCH", configMaps+"/x?fieldManager=m", strings.NewReader(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`), "Content-Type", "application/apply-patch+yaml")
	admin.do("GET", "/apis/made.up.example/v1/things/a", nil)
	admin.do("GET", "/apis/made.up.example/v1/things/b", nil)
	if got := admin.do("GET", "/api/v1/namespaces/default/endpoints", nil); got.Header.Get("Warning") != `299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"` {
		t.Errorf("Warning: %s", got.Header.Get("Warning"))
	}
	text := admin.do("GET", "/metrics", nil).body
	for series, want := range map[string]float64{
		`apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="namespaces",scope="cluster",subresource="",verb="LIST",version="v1"}`:     1,
		`apiserver_request_total{code="404",component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="",verb="GET",version="v1"}`:     1,
		`apiserver_request_total{code="201",component="apiserver",dry_run="All",group="",resource="configmaps",scope="resource",subresource="",verb="POST",version="v1"}`: 1,
		`apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="",verb="APPLY",version="v1"}`:   1,
		`apiserver_request_total{code="404",component="apiserver",dry_run="",group="",resource="",scope="",subresource="",verb="GET",version=""}`:                         2,
		`apiserver_response_sizes_count{component="apiserver",group="",resource="namespaces",scope="cluster",subresource="",verb="LIST",version="v1"}`:                    1,
		`apiserver_request_sli_duration_seconds_count{component="apiserver",group="",resource="configmaps",scope="resource",subresource="",verb="APPLY",version="v1"}`:    1,
		`apiserver_request_body_size_bytes_sum{group="",resource="configmaps",verb="create"}`:                                                                             25,
		`apiserver_requested_deprecated_apis{group="",removed_release="",resource="endpoints",subresource="",version="v1"}`:                                               1,
		`kubernetes_feature_enabled{name="CBORServingAndStorage",stage="ALPHA"}`:                                                                                          0,
		`hidden_metrics_total`: 0,
	} {
		if got := metric(text, series); got != want {
			t.Errorf("%s: %v, want %v", series, got, want)
		}
	}
	if !strings.Contains(text, "# HELP apiserver_request_total [STABLE] ") || strings.Contains(text, "made.up") {
		t.Error("the metrics lack how stable they are, or name what is not there")
	}
}

func TestDisabledMetrics(t *testing.T) {
	t.Parallel()
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{DisabledMetrics: []string{"apiserver_request_total", "authentication_attempts"}}})
	text := as(t, tc, "").do("GET", "/metrics", nil).body
	if strings.Contains(text, "apiserver_request_total") || metric(text, "disabled_metrics_total") != 2 {
		t.Errorf("%v are disabled", metric(text, "disabled_metrics_total"))
	}
}

// TestPages asks for the pages for people, and for their structured forms.
func TestPages(t *testing.T) {
	t.Parallel()
	admin := as(t, testcluster.Start(t), "")
	for _, path := range []string{"/statusz", "/flagz"} {
		name := strings.TrimPrefix(path, "/")
		kind := strings.ToUpper(name[:1]) + name[1:]
		for _, accept := range []string{"", "*/*", "text/plain", "text/html, text/*;q=0.5"} {
			got := admin.do("GET", path, nil, "Accept", accept)
			if got.StatusCode != 200 || got.Header.Get("Content-Type") != "text/plain; charset=utf-8" || !strings.HasPrefix(got.body, "\napiserver "+name+"\nWarning: ") {
				t.Errorf("%s for %s: %d %v %s", path, accept, got.StatusCode, got.Header, got.body)
			}
		}
		for _, version := range []string{"v1beta1", "v1alpha1"} {
			got := admin.do("GET", path, nil, "Accept", "application/json;as="+kind+";v="+version+";g=config.k8s.io")
			if got.StatusCode != 200 || !strings.Contains(got.body, `"apiVersion":"config.k8s.io/`+version+`"`) || !strings.Contains(got.body, `"kind":"`+kind+`"`) ||
				!strings.Contains(got.body, `"name":"apiserver"`) || (got.Header.Get("Warning") != "") != (version == "v1alpha1") {
				t.Errorf("%s in %s: %d %v %s", path, version, got.StatusCode, got.Header, got.body)
			}
		}
		if got := admin.do("GET", path, nil, "Accept", "application/json"); got.StatusCode != http.StatusNotAcceptable {
			t.Errorf("%s in plain JSON: %d %s", path, got.StatusCode, got.body)
		}
	}
	if got := admin.do("GET", "/statusz", nil, "Accept", "application/json;as=Statusz;v=v1beta1;g=config.k8s.io"); !strings.Contains(got.body, `"paths":["/flagz","/healthz","/livez","/metrics","/readyz","/statusz","/version"]`) {
		t.Errorf("%s", got.body)
	}
	if got := admin.do("GET", "/flagz", nil, "Accept", "application/json;as=Flagz;v=v1beta1;g=config.k8s.io"); !strings.Contains(got.body, `"bind-address":"127.0.0.1"`) {
		t.Errorf("%s", got.body)
	}
}
