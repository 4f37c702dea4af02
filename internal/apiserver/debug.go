package apiserver

import (
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const debugNotice = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n"

// configGroup is the group of the pages' structured forms.
const configGroup = "config.k8s.io"

// page answers with one of the pages for people, or with its structured form to
// those who ask for one: an object of the kind with the given fields.
func page(w http.ResponseWriter, r *http.Request, kind string, fields map[string]any, text string) {
	m, err := negotiatePage(r, kind)
	if err != nil {
		writeError(w, r, err)
		return
	}
	if m == nil {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "\napiserver %s\n%s%s", strings.ToLower(kind), debugNotice, text)
		return
	}
	if m.Version == "v1alpha1" {
		warning(r.Context(), "This version of the "+strings.ToLower(kind)+" endpoint is deprecated. Please use a newer version.")
	}
	gvk := schema.GroupVersionKind{Group: m.Group, Version: m.Version, Kind: kind}
	obj := &unstructured.Unstructured{Object: fields}
	obj.SetGroupVersionKind(gvk)
	obj.SetName("apiserver")
	writeObject(w, r, &mediaType{Media: m.Media, Pretty: m.Pretty}, http.StatusOK, obj, gvk)
}

// negotiatePage returns the structured form that the client wants, nil if it
// takes text.
func negotiatePage(r *http.Request, kind string) (*mediaType, error) {
	header := strings.Join(r.Header.Values("Accept"), ",")
	if strings.TrimSpace(header) == "" {
		return nil, nil
	}
	m, err := negotiate(r, func(m *mediaType) bool {
		return m.As == kind && m.Group == configGroup && (m.Version == "v1beta1" || m.Version == "v1alpha1") && m.Media != mediaProtobuf
	})
	if err == nil {
		return m, nil
	}
	for clause := range strings.SplitSeq(header, ",") {
		if t, _, err := mime.ParseMediaType(strings.TrimSpace(clause)); err == nil && (t == "text/plain" || t == "text/*" || t == "*/*") {
			return nil, nil
		}
	}
	return nil, notAcceptable("application/json, application/yaml, text/plain")
}

// statusz shows people what runs and since when (KEP-4827).
func (s *Server) statusz(w http.ResponseWriter, r *http.Request) {
	up := s.Clock.Since(s.started).Truncate(time.Second)
	v := Version()
	emulation := v.EmulationMajor + "." + v.EmulationMinor
	paths := s.debugPaths()
	var shown []any
	for _, p := range paths {
		shown = append(shown, p)
	}
	page(w, r, "Statusz", map[string]any{
		"startTime": s.started.UTC().Format(time.RFC3339), "uptimeSeconds": int64(up.Seconds()), "goVersion": v.GoVersion,
		"binaryVersion": v.GitVersion, "emulationVersion": emulation, "paths": shown,
	}, fmt.Sprintf("\nStarted: %s\nUp: %d hr %02d min %02d sec\nGo version: %s\nBinary version: %s\nEmulation version: %s\nPaths: %s\n",
		s.started.UTC().Format(time.UnixDate), int(up.Hours()), int(up.Minutes())%60, int(up.Seconds())%60,
		v.GoVersion, v.GitVersion, emulation, strings.Join(paths, " ")))
}

// debugPaths are the beginnings of the paths that tell how the server is.
func (s *Server) debugPaths() (out []string) {
	for _, p := range s.rootPaths() {
		first, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
		switch first {
		case "", "api", "apis", "openid", "openapi", ".well-known":
			continue
		}
		out = append(out, "/"+first)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// flagz shows people the settings by the names of upstream's flags (KEP-4828).
func (s *Server) flagz(w http.ResponseWriter, r *http.Request) {
	var text strings.Builder
	flags := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(s.Flags)) {
		fmt.Fprintf(&text, "%s: %s\n", name, s.Flags[name])
		flags[name] = s.Flags[name]
	}
	page(w, r, "Flagz", map[string]any{"flags": flags}, text.String())
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
			for _, c := range s.healthChecks(kind) {
				value, status := 1.0, "success"
				if c.run(r.Context()) != nil {
					value, status = 0, "error"
				}
				state.WithLabelValues(c.name, kind).Set(value)
				total.WithLabelValues(c.name, status, kind).Inc()
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
		http.Redirect(w, r, profilePath+"/", http.StatusFound)
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
