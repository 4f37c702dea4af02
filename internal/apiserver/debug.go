package apiserver

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const debugNotice = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n"

// statusz shows people what runs and since when (KEP-4827).
func (s *Server) statusz(w http.ResponseWriter, _ *http.Request) {
	up := s.Clock.Since(s.started).Truncate(time.Second)
	v := Version()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "\nkube-apiserver statusz\n%s\n", debugNotice)
	fmt.Fprintf(w, "Started: %s\nUp: %d hr %02d min %02d sec\nGo version: %s\nBinary version: %s\nEmulation version: %s.%s\n",
		s.started.UTC().Format(time.UnixDate), int(up.Hours()), int(up.Minutes())%60, int(up.Seconds())%60,
		v.GoVersion, v.GitVersion, v.EmulationMajor, v.EmulationMinor)
	fmt.Fprintf(w, "Paths: %s\n", strings.Join(slices.Sorted(maps.Keys(s.mux)), " "))
}

// flagz shows people the settings by the names of upstream's flags (KEP-4828).
func (s *Server) flagz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "\nkube-apiserver flagz\n%s\n", debugNotice)
	for _, name := range slices.Sorted(maps.Keys(s.Flags)) {
		fmt.Fprintf(w, "%s=%s\n", name, s.Flags[name])
	}
}

// slis counts the results of every health check (KEP-3466); each scrape asks
// them anew.
func (s *Server) slis() http.Handler {
	reg := prometheus.NewRegistry()
	state := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "kubernetes_healthcheck", Help: "Whether a health check holds (1) or not (0).",
	}, []string{"name", "type"})
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kubernetes_healthchecks_total", Help: "Results of health checks.",
	}, []string{"name", "status", "type"})
	reg.MustRegister(state, total)
	handler := promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, kind := range []string{"healthz", "livez", "readyz"} {
			for name, check := range s.healthChecks(kind) {
				value, status := 1.0, "success"
				if check(r.Context()) != nil {
					value, status = 0, "error"
				}
				state.WithLabelValues(name, kind).Set(value)
				total.WithLabelValues(name, status, kind).Inc()
			}
		}
		handler.ServeHTTP(w, r)
	})
}

const profilePath = "/debug/pprof"

// serveProfile answers below /debug/pprof as Go's own handlers do, so that
// `go tool pprof` can look into a running server.
func (s *Server) serveProfile(w http.ResponseWriter, r *http.Request, info *requestInfo) bool {
	switch info.Path {
	case profilePath:
		http.Redirect(w, r, profilePath+"/", http.StatusMovedPermanently)
	case profilePath + "/cmdline":
		pprof.Cmdline(w, r)
	case profilePath + "/profile":
		pprof.Profile(w, r)
	case profilePath + "/symbol":
		pprof.Symbol(w, r)
	case profilePath + "/trace":
		pprof.Trace(w, r)
	default:
		if !strings.HasPrefix(info.Path, profilePath+"/") {
			return false
		}
		pprof.Index(w, r)
	}
	return true
}
