package apiserver

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/version"
)

// Version is what /version answers: the API's version, not Skiff's own.
func Version() version.Info {
	return version.Info{
		Major: "1", Minor: "36", EmulationMajor: "1", EmulationMinor: "36", MinCompatibilityMajor: "1", MinCompatibilityMinor: "35",
		GitVersion: "v1.36.3+skiff", GitTreeState: "clean",
		GoVersion: goVersion(), Compiler: "gc", Platform: platform(),
	}
}

// checkTimeout bounds each readiness check.
const checkTimeout = 5 * time.Second

// startSteps are the checks of the steps of a start, by upstream's names and in
// its order, that monitoring asks for one by one. Here all of them are over before
// the port answers.
var startSteps = []string{
	"poststarthook/start-apiserver-admission-initializer", "poststarthook/generic-apiserver-start-informers",
	"poststarthook/priority-and-fairness-config-consumer", "poststarthook/priority-and-fairness-filter",
	"poststarthook/storage-object-count-tracker-hook", "poststarthook/start-apiextensions-informers",
	"poststarthook/start-apiextensions-controllers", "poststarthook/crd-informer-synced",
	"poststarthook/start-system-namespaces-controller", "poststarthook/peer-endpoint-reconciler-controller",
	"poststarthook/start-cluster-authentication-info-controller", "poststarthook/start-kube-apiserver-identity-lease-controller",
	"poststarthook/start-kube-apiserver-identity-lease-garbage-collector", "poststarthook/storage-readiness",
	"poststarthook/start-legacy-token-tracking-controller", "poststarthook/start-service-ip-repair-controllers",
	"poststarthook/rbac/bootstrap-roles", "poststarthook/scheduling/bootstrap-system-priority-classes",
	"poststarthook/priority-and-fairness-config-producer", "poststarthook/bootstrap-controller",
	"poststarthook/start-kubernetes-service-cidr-controller", "poststarthook/start-kube-aggregator-informers",
	"poststarthook/apiservice-status-local-available-controller", "poststarthook/apiservice-status-remote-available-controller",
	"poststarthook/apiservice-registration-controller", "poststarthook/apiservice-discovery-controller",
	"poststarthook/kube-apiserver-autoregistration", "autoregister-completion", "poststarthook/apiservice-openapi-controller",
	"poststarthook/apiservice-openapiv3-controller",
}

// healthCheck is one of the things that /healthz, /livez or /readyz ask.
type healthCheck struct {
	name string
	run  func(context.Context) error
}

// healthChecks are the checks of a path, in the order of its report.
func (s *Server) healthChecks(path string) []healthCheck {
	ok := func(context.Context) error { return nil }
	store := func(ctx context.Context) error { return s.Verbs.Cache().Sync(ctx) }
	checks := []healthCheck{{"ping", ok}, {"log", ok}}
	if path != "readyz" {
		checks = append(checks, healthCheck{"loopback-serving-certificate", ok})
	}
	checks = append(checks, healthCheck{"etcd", store})
	if path == "readyz" {
		checks = append(checks, healthCheck{"etcd-readiness", store}, healthCheck{"informer-sync", store})
	}
	for _, step := range startSteps {
		checks = append(checks, healthCheck{step, ok})
	}
	if path == "readyz" {
		for _, name := range slices.Sorted(maps.Keys(s.Checks)) {
			checks = append(checks, healthCheck{name, s.Checks[name]})
		}
		checks = append(checks, healthCheck{"shutdown", func(context.Context) error {
			if s.draining.Load() {
				return fmt.Errorf("the server is shutting down")
			}
			return nil
		}})
	}
	return checks
}

// serveHealthPath answers /healthz, /livez, /readyz and their single checks,
// in upstream's form.
func (s *Server) serveHealthPath(w http.ResponseWriter, r *http.Request, info *requestInfo) bool {
	path, single, below := strings.Cut(strings.TrimPrefix(info.Path, "/"), "/")
	if path != "healthz" && path != "livez" && path != "readyz" {
		return false
	}
	checks := s.healthChecks(path)
	if below {
		return serveCheck(w, r, single, checks)
	}
	excluded := map[string]bool{}
	for _, e := range r.URL.Query()["exclude"] {
		excluded[e] = true
	}
	var report strings.Builder
	failed := false
	for _, c := range checks {
		name := c.name
		if excluded[name] {
			delete(excluded, name)
			fmt.Fprintf(&report, "[+]%s excluded: ok\n", name)
			continue
		}
		ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
		err := c.run(ctx)
		cancel()
		if err != nil {
			failed = true
			s.Log.Warn("health check failed", "check", name, "error", err)
			fmt.Fprintf(&report, "[-]%s failed: reason withheld\n", name)
			continue
		}
		fmt.Fprintf(&report, "[+]%s ok\n", name)
	}
	if len(excluded) > 0 {
		var unknown []string
		for _, name := range slices.Sorted(maps.Keys(excluded)) {
			unknown = append(unknown, strconv.Quote(name))
		}
		fmt.Fprintf(&report, "warn: some health checks cannot be excluded: no matches for %s\n", strings.Join(unknown, ","))
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, verbose := r.URL.Query()["verbose"]
	switch {
	case failed:
		http.Error(w, report.String()+path+" check failed", http.StatusInternalServerError)
	case verbose:
		fmt.Fprintf(w, "%s%s check passed\n", report.String(), path)
	default:
		fmt.Fprint(w, "ok")
	}
	return true
}

// serveCheck answers for a single health check.
func serveCheck(w http.ResponseWriter, r *http.Request, name string, checks []healthCheck) bool {
	i := slices.IndexFunc(checks, func(c healthCheck) bool { return c.name == name })
	if i < 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	if err := checks[i].run(ctx); err != nil {
		http.Error(w, fmt.Sprintf("internal server error: %v", err), http.StatusInternalServerError)
		return true
	}
	fmt.Fprint(w, "ok")
	return true
}

// index lists what can be asked for.
func (s *Server) index(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, r, http.StatusOK, map[string][]string{"paths": s.rootPaths()})
}

func versions(w http.ResponseWriter, r *http.Request) {
	if !getOnly(w, r) {
		return
	}
	if err := produced(r, []string{mediaJSON}); err != nil {
		writeError(w, r, err)
		return
	}
	writeJSON(w, r, http.StatusOK, Version())
}

// paths are the exact paths that the server answers itself.
func (s *Server) paths() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"/statusz":      s.statusz,
		"/flagz":        s.flagz,
		"/metrics/slis": s.slis().ServeHTTP,
		"/metrics":      func(w http.ResponseWriter, r *http.Request) { s.metrics.handler.ServeHTTP(w, r) },
		"/":             s.index,
		"/index.html":   s.index,
	}
}
