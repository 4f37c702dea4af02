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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// startSteps are the steps of a start, by upstream's names, that monitoring
// asks for one by one. Here all of them are over before the port answers.
var startSteps = []string{
	"apiservice-discovery-controller", "apiservice-openapi-controller", "apiservice-openapiv3-controller",
	"apiservice-registration-controller", "apiservice-status-local-available-controller",
	"apiservice-status-remote-available-controller", "bootstrap-controller", "crd-informer-synced",
	"generic-apiserver-start-informers", "kube-apiserver-autoregistration", "peer-endpoint-reconciler-controller",
	"priority-and-fairness-config-consumer", "priority-and-fairness-config-producer", "priority-and-fairness-filter",
	"rbac/bootstrap-roles", "scheduling/bootstrap-system-priority-classes", "start-apiextensions-controllers",
	"start-apiextensions-informers", "start-apiserver-admission-initializer",
	"start-cluster-authentication-info-controller", "start-kube-aggregator-informers",
	"start-kube-apiserver-identity-lease-controller", "start-kube-apiserver-identity-lease-garbage-collector",
	"start-kubernetes-service-cidr-controller", "start-legacy-token-tracking-controller",
	"start-service-ip-repair-controllers", "start-system-namespaces-controller", "storage-object-count-tracker-hook",
	"storage-readiness",
}

// healthChecks are the checks by name; live ones hold as long as the process
// can answer at all.
func (s *Server) healthChecks(path string) map[string]func(context.Context) error {
	ok := func(context.Context) error { return nil }
	checks := map[string]func(context.Context) error{"ping": ok, "log": ok, "autoregister-completion": ok}
	for _, step := range startSteps {
		checks["poststarthook/"+step] = ok
	}
	store := func(ctx context.Context) error { return s.Verbs.Cache().Sync(ctx) }
	checks["etcd"] = store
	if path != "readyz" {
		checks["loopback-serving-certificate"] = ok
	}
	if path == "readyz" {
		maps.Copy(checks, s.Checks)
		checks["etcd-readiness"], checks["informer-sync"] = store, store
		checks["shutdown"] = func(context.Context) error {
			if s.draining.Load() {
				return fmt.Errorf("the server is shutting down")
			}
			return nil
		}
	}
	return checks
}

// serveHealthPath answers /healthz, /livez, /readyz and their single checks,
// in upstream's form.
func (s *Server) serveHealthPath(w http.ResponseWriter, r *http.Request, info *requestInfo) bool {
	path, single, _ := strings.Cut(strings.TrimPrefix(info.Path, "/"), "/")
	if path != "healthz" && path != "livez" && path != "readyz" {
		return false
	}
	checks := s.healthChecks(path)
	names := slices.Sorted(maps.Keys(checks))
	if single != "" {
		if checks[single] == nil {
			writeError(w, r, notFound())
			return true
		}
		names = []string{single}
	}
	excluded := map[string]bool{}
	var unknown []string
	for _, e := range r.URL.Query()["exclude"] {
		excluded[e] = true
		if checks[e] == nil {
			unknown = append(unknown, strconv.Quote(e))
		}
	}
	var report strings.Builder
	failed := false
	for _, name := range names {
		if excluded[name] {
			fmt.Fprintf(&report, "[+]%s excluded: ok\n", name)
			continue
		}
		ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
		err := checks[name](ctx)
		cancel()
		if err != nil {
			failed = true
			s.Log.Warn("health check failed", "check", name, "error", err)
			fmt.Fprintf(&report, "[-]%s failed: reason withheld\n", name)
			continue
		}
		fmt.Fprintf(&report, "[+]%s ok\n", name)
	}
	if len(unknown) > 0 {
		fmt.Fprintf(&report, "warn: some health checks cannot be excluded: no matches for %s\n", strings.Join(unknown, ", "))
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

// paths are the exact paths that the server answers itself.
func (s *Server) paths() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"/version": func(w http.ResponseWriter, r *http.Request) {
			writeJSON(w, r, http.StatusOK, Version())
		},
		"/version/":     func(w http.ResponseWriter, r *http.Request) { writeJSON(w, r, http.StatusOK, Version()) },
		"/statusz":      s.statusz,
		"/flagz":        s.flagz,
		"/metrics/slis": s.slis().ServeHTTP,
		"/metrics":      func(w http.ResponseWriter, r *http.Request) { s.metrics.handler.ServeHTTP(w, r) },
		"/": func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet {
				writeError(w, r, apierrors.NewMethodNotSupported(noResource, r.Method))
				return
			}
			writeJSON(w, r, http.StatusOK, map[string][]string{"paths": s.rootPaths()})
		},
	}
}
