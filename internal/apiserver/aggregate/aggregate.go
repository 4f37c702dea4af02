// Package aggregate lets other API servers answer for group versions, as
// APIServices say: it watches over whether they are there, hands requests on
// with the requester's identity, and tells discovery and OpenAPI what they
// serve. It also keeps the APIServices of what this server answers itself.
//
// Nothing runs for an APIService that is local; each of the others has a
// goroutine that looks at it when its Service or endpoints change, and twice a
// minute.
package aggregate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/utils/clock"

	"skiff/internal/apiserver/verbs"
	"skiff/internal/apiserver/weakcerts"
	"skiff/internal/identity"
	"skiff/internal/store/cache"
)

var apiServices = schema.GroupResource{Group: apiregistrationv1.GroupName, Resource: "apiservices"}

// Resolver tells where connections to a port of a Service go.
type Resolver interface {
	Resolve(ctx context.Context, namespace, name, port string) (hostPort string, err error)
}

// Config is what an Aggregator is made of.
type Config struct {
	Verbs    *verbs.Server
	Resolver Resolver
	// Certificate is the front proxy's, by which extension servers know that
	// the identity in a request's headers is true.
	Certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	Clock       clock.WithTicker
	Log         *slog.Logger
	// WeakCerts counts certificates that will not do for long; nil counts none.
	WeakCerts *weakcerts.Counters
}

// Aggregator knows the extension API servers.
type Aggregator struct {
	Config
	resource *verbs.Resource

	mu struct {
		sync.RWMutex
		extensions map[schema.GroupVersion]*Extension
		// revision counts changes of what discovery shows.
		revision int64
	}
}

// New returns an Aggregator that knows of no extension server yet.
func New(c Config) (*Aggregator, error) {
	a := &Aggregator{Config: c, resource: c.Verbs.Lookup(apiServices)}
	if a.resource == nil {
		return nil, fmt.Errorf("%s are not served", apiServices)
	}
	a.mu.extensions = map[schema.GroupVersion]*Extension{}
	return a, nil
}

// Start follows the APIServices until ctx ends.
func (a *Aggregator) Start(ctx context.Context) {
	ctx = identity.NewContext(verbs.WithUserAgent(ctx, "kube-apiserver"), identity.Loopback())
	snap, w := a.resource.Collection.SnapshotAndWatch(cache.Scope{})
	a.all(ctx, snap)
	go a.follow(ctx, w)
	go a.register(ctx)
}

func (a *Aggregator) all(ctx context.Context, snap cache.Snapshot) {
	seen := map[schema.GroupVersion]bool{}
	snap.Ascend(a.resource.Prefix+"/", "", func(e *cache.Entry) bool {
		if s := a.read(e); s != nil {
			seen[versionOf(s)] = true
			a.changed(ctx, s)
		}
		return true
	})
	a.mu.RLock()
	var gone []schema.GroupVersion
	for gv := range a.mu.extensions {
		if !seen[gv] {
			gone = append(gone, gv)
		}
	}
	a.mu.RUnlock()
	for _, gv := range gone {
		a.forget(gv)
	}
}

func (a *Aggregator) follow(ctx context.Context, w *cache.Watcher) {
	defer func() { w.Stop() }()
	for {
		events, err := w.Next(ctx)
		if errors.Is(err, cache.ErrFellBehind) {
			w.Stop()
			var snap cache.Snapshot
			snap, w = a.resource.Collection.SnapshotAndWatch(cache.Scope{})
			a.all(ctx, snap)
			continue
		}
		if err != nil {
			return
		}
		for _, ev := range events {
			s := a.read(ev.Entry())
			switch {
			case s == nil:
			case ev.New == nil:
				a.forget(versionOf(s))
			default:
				a.changed(ctx, s)
			}
		}
	}
}

func (a *Aggregator) read(e *cache.Entry) *apiregistrationv1.APIService {
	obj, err := e.Object()
	if err != nil {
		a.Log.Error("a stored APIService is not readable", "key", e.Key, "error", err)
		return nil
	}
	return obj.(*apiregistrationv1.APIService)
}

func versionOf(s *apiregistrationv1.APIService) schema.GroupVersion {
	return schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}
}

func (a *Aggregator) changed(ctx context.Context, s *apiregistrationv1.APIService) {
	gv := versionOf(s)
	if s.Spec.Service == nil {
		a.forget(gv)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.mu.extensions[gv]
	if old != nil && old.service.UID == s.UID && equality.Semantic.DeepEqual(&old.service.Spec, &s.Spec) {
		return
	}
	if old != nil {
		old.stop()
	}
	a.mu.extensions[gv] = a.newExtension(ctx, s)
	a.mu.revision++
}

func (a *Aggregator) forget(gv schema.GroupVersion) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.mu.extensions[gv]; old != nil {
		old.stop()
		delete(a.mu.extensions, gv)
		a.mu.revision++
	}
}

// Handler returns who answers a path instead of this server, nil if nobody
// does.
func (a *Aggregator) Handler(path string) http.Handler {
	if a == nil {
		return nil
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if len(a.mu.extensions) == 0 {
		return nil
	}
	gv, ok := versionOfPath(path)
	if !ok {
		return nil
	}
	if e := a.mu.extensions[gv]; e != nil {
		return e
	}
	return nil
}

func versionOfPath(path string) (schema.GroupVersion, bool) {
	parts := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 4)
	switch {
	case len(parts) >= 3 && parts[0] == "apis":
		return schema.GroupVersion{Group: parts[1], Version: parts[2]}, true
	case len(parts) >= 2 && parts[0] == "api":
		return schema.GroupVersion{Version: parts[1]}, true
	}
	return schema.GroupVersion{}, false
}

// Extensions returns the group versions that others answer, in order of their
// names, and a number that changes when what is known of them does.
func (a *Aggregator) Extensions() (int64, []*Extension) {
	if a == nil {
		return 0, nil
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	all := make([]*Extension, 0, len(a.mu.extensions))
	for _, e := range a.mu.extensions {
		all = append(all, e)
	}
	slices.SortFunc(all, func(x, y *Extension) int { return strings.Compare(x.GroupVersion.String(), y.GroupVersion.String()) })
	return a.mu.revision, all
}

// Serves reports whether another server answers the group version.
func (a *Aggregator) Serves(gv schema.GroupVersion) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.mu.extensions[gv] != nil
}

// Resources returns what the extension servers last said that they serve, and
// a number that changes when that may.
func (a *Aggregator) Resources() (int64, []*metav1.APIResourceList) {
	revision, all := a.Extensions()
	var lists []*metav1.APIResourceList
	for _, e := range all {
		if list, _ := e.Resources(); list != nil {
			lists = append(lists, list)
		}
	}
	return revision, lists
}

func (a *Aggregator) learned() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.revision++
}
