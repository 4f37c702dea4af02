package verbs

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"skiff/internal/apis"
	"skiff/internal/store"
	"skiff/internal/store/cache"
)

// futureWait is how long a read waits for a revision that is not there yet
// before it answers "Too large resource version" (upstream's watch cache).
const futureWait = 3 * time.Second

// Get returns one object. With resourceVersion "" the read is linearizable,
// otherwise any state not older than it will do.
func (s *Server) Get(ctx context.Context, req *Request, o *metav1.GetOptions) (*cache.Entry, error) {
	if v := req.Resource().Virtual; v != nil {
		obj, err := v.Get(ctx, req.Namespace, req.Name)
		if err != nil {
			return nil, err
		}
		return cache.DetachedEntry("", obj), nil
	}
	if _, err := parseRevision(o.ResourceVersion); err != nil {
		return nil, errors.Unwrap(err) // as upstream, an error of the server
	}
	if err := s.waitFor(ctx, req.Resource(), o.ResourceVersion); err != nil {
		return nil, err
	}
	if e := req.Resource().Collection.Get(req.key()); e != nil {
		return e, nil
	}
	return nil, apierrors.NewNotFound(req.qualified(), req.Name)
}

// waitFor makes the cache as new as rv demands, for a read of the resource.
func (s *Server) waitFor(ctx context.Context, r *Resource, rv string) error {
	if rv == "" {
		began := time.Now()
		err := s.cache.Sync(ctx)
		r.counts.waits().Observe(time.Since(began).Seconds())
		r.counts.consistent.Add(1)
		if err != nil {
			r.counts.failed.Add(1)
			return unavailable(err)
		}
		return nil
	}
	rev, err := parseRevision(rv)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return s.waitForRevision(ctx, rev)
}

func (s *Server) waitForRevision(ctx context.Context, rev int64) error {
	if s.cache.Revision() >= rev {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, futureWait)
	defer cancel()
	if s.cache.WaitFor(wait, rev) != nil {
		err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", rev, s.cache.Revision()), 1)
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
		return err
	}
	return nil
}

// ListOptions narrow a list, watch or deletecollection.
type ListOptions struct {
	Labels labels.Selector
	Fields fields.Selector

	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
	Limit                int64
	Continue             string

	// For watches.
	AllowBookmarks    bool
	SendInitialEvents *bool
}

// ListResult is one page of a list.
type ListResult struct {
	Entries  []*cache.Entry
	Revision int64
	Continue string
	// Remaining is nil when it is not known.
	Remaining *int64
}

// filter is a compiled ListOptions: which keys to walk and which objects to
// take.
type filter struct {
	version *Version
	scope   cache.Scope
	labels  labels.Selector
	fields  []fieldTest
	// converted is set when a test looks at objects in the request's version.
	converted bool
}

type fieldTest struct {
	get   func(apis.Object) string
	value string
	equal bool
	// converted tests look at the object in the request's version.
	converted bool
}

func compile(req *Request, o *ListOptions) (*filter, error) {
	r := req.Resource()
	f := &filter{version: req.Version}
	if o.Labels != nil && !o.Labels.Empty() {
		f.labels = o.Labels
	}
	namespace, name := req.Namespace, req.Name
	if o.Fields != nil {
		for _, q := range o.Fields.Requirements() {
			path := req.Version.selectablePath(q.Field)
			get, converted := r.selectable[path], false
			if get == nil {
				get, converted = req.Version.Fields[q.Field], true
			}
			if get == nil || q.Field == "metadata.namespace" && !req.Version.namespaceSelectable() {
				return nil, apierrors.NewBadRequest(req.Version.unselectable(q.Field))
			}
			equal := q.Operator == selection.Equals || q.Operator == selection.DoubleEquals
			f.fields = append(f.fields, fieldTest{get, q.Value, equal, converted})
			f.converted = f.converted || converted
			switch {
			case !equal:
			case q.Field == "metadata.name":
				if req.Name != "" && req.Name != q.Value {
					return nil, apierrors.NewBadRequest(fmt.Sprintf("field selector metadata.name=%s does not match the name %s of the request", q.Value, req.Name))
				}
				name = q.Value
			case q.Field == "metadata.namespace" && namespace == "":
				namespace = q.Value
			case r.Collection != nil && r.Collection.HasIndex(path):
				f.scope.Field, f.scope.Value = path, q.Value
			}
		}
	}
	if req.Name != "" {
		f.fields = append(f.fields, fieldTest{get: r.selectable["metadata.name"], value: req.Name, equal: true})
	}
	f.scope.Namespace = namespace
	if namespace != "" {
		f.fields = append(f.fields, fieldTest{get: r.selectable["metadata.namespace"], value: namespace, equal: true})
	}
	if name != "" && (namespace != "" || !r.Namespaced) && r.Collection != nil {
		f.scope.Key = r.Collection.Key(namespace, name)
	}
	return f, nil
}

// matches reports whether the object in e is selected.
func (f *filter) matches(ctx context.Context, e *cache.Entry) bool {
	if f.labels == nil && len(f.fields) == 0 {
		return true
	}
	obj, err := e.Object()
	if err != nil {
		// An unreadable object must be seen, not hidden.
		return true
	}
	shown := obj
	if f.converted {
		if shown, err = f.version.Object(ctx, e); err != nil {
			return true
		}
	}
	for i := range f.fields {
		t, of := &f.fields[i], obj
		if t.converted {
			of = shown
		}
		if (t.get(of) == t.value) != t.equal {
			return false
		}
	}
	return f.labels == nil || f.labels.Matches(labels.Set(obj.GetLabels()))
}

// List returns the selected objects in key order.
func (s *Server) List(ctx context.Context, req *Request, o *ListOptions) (*ListResult, error) {
	if err := validateListOptions(o, false); err != nil {
		return nil, err
	}
	if o.ResourceVersion == "0" {
		// Whatever there is, and all of it.
		all := *o
		all.Limit = 0
		o = &all
	}
	f, err := compile(req, o)
	if err != nil {
		return nil, err
	}
	if req.Resource().Virtual != nil {
		return s.listVirtual(ctx, req, f)
	}
	col := req.Resource().Collection
	prefix := col.Prefix() + "/"
	if f.scope.Namespace != "" && req.Resource().Namespaced {
		prefix += f.scope.Namespace + "/"
	}
	snap, from, err := s.snapshotFor(ctx, req.Resource(), prefix, o)
	if err != nil {
		return nil, err
	}
	out := &ListResult{Revision: snap.Revision}
	if f.scope.Key != "" {
		if e := snap.Get(f.scope.Key); e != nil && e.Key >= from && f.matches(ctx, e) {
			out.Entries = append(out.Entries, e)
		}
		req.Resource().counts.listed(f.scope.Namespace != "", 1, len(out.Entries))
		return out, nil
	}
	if o.Limit == 0 && f.labels == nil && len(f.fields) == 0 && f.scope.Namespace == "" {
		out.Entries = make([]*cache.Entry, 0, snap.Len())
	}
	if f.converted {
		var all []*cache.Entry
		snap.Ascend(prefix, from, func(e *cache.Entry) bool {
			all = append(all, e)
			return true
		})
		if err := req.Version.Prepare(ctx, all); err != nil {
			return nil, err
		}
	}
	more, fetched := int64(0), 0
	filtered := f.labels != nil || len(f.fields) > 1 || (len(f.fields) == 1 && f.scope.Namespace == "")
	snap.Ascend(prefix, from, func(e *cache.Entry) bool {
		fetched++
		if o.Limit > 0 && int64(len(out.Entries)) == o.Limit {
			// As with upstream, it is not looked whether any of the rest match.
			more++
			return !filtered
		}
		if f.matches(ctx, e) {
			out.Entries = append(out.Entries, e)
		}
		return true
	})
	req.Resource().counts.listed(f.scope.Namespace != "", fetched, len(out.Entries))
	if more > 0 {
		last := out.Entries[len(out.Entries)-1]
		col.Pin(snap)
		out.Continue = encodeContinue(snap.Revision, strings.TrimPrefix(last.Key, prefix)+"\x00")
		if !filtered {
			out.Remaining = &more
		}
	}
	return out, nil
}

// listVirtual makes up the selected objects.
func (s *Server) listVirtual(ctx context.Context, req *Request, f *filter) (*ListResult, error) {
	all, err := req.Resource().Virtual.List(ctx, f.scope.Namespace)
	if err != nil {
		return nil, err
	}
	out := &ListResult{}
	for _, obj := range all {
		if e := cache.DetachedEntry("", obj); f.matches(ctx, e) {
			out.Entries = append(out.Entries, e)
		}
	}
	return out, nil
}

// snapshotFor finds the state that o asks for and the key to go on from.
func (s *Server) snapshotFor(ctx context.Context, r *Resource, prefix string, o *ListOptions) (cache.Snapshot, string, error) {
	col := r.Collection
	if o.Continue != "" {
		rev, start, err := decodeContinue(o.Continue)
		if err != nil {
			return cache.Snapshot{}, "", apierrors.NewBadRequest(fmt.Sprintf("invalid continue token: continue key is not valid: %v", err))
		}
		if o.ResourceVersion != "" && o.ResourceVersion != "0" {
			return cache.Snapshot{}, "", apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
		}
		if rev < 0 {
			if err := s.waitFor(ctx, r, ""); err != nil {
				return cache.Snapshot{}, "", err
			}
			return col.Snapshot(), prefix + start, nil
		}
		snap, err := s.exact(ctx, r, rev)
		if apierrors.IsResourceExpired(err) {
			err = expiredContinue(start)
		}
		return snap, prefix + start, err
	}
	rev, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return cache.Snapshot{}, "", apierrors.NewBadRequest(err.Error())
	}
	// A limited list at a revision is exact unless told otherwise (upstream's
	// legacy semantics).
	if o.ResourceVersionMatch == metav1.ResourceVersionMatchExact || (o.ResourceVersionMatch == "" && o.Limit > 0 && rev > 0) {
		snap, err := s.exact(ctx, r, rev)
		return snap, "", err
	}
	if err := s.waitFor(ctx, r, o.ResourceVersion); err != nil {
		return cache.Snapshot{}, "", err
	}
	return col.Snapshot(), "", nil
}

func (s *Server) exact(ctx context.Context, r *Resource, rev int64) (cache.Snapshot, error) {
	if err := s.waitForRevision(ctx, rev); err != nil {
		return cache.Snapshot{}, err
	}
	if snap, ok := r.Collection.At(rev); ok {
		return snap, nil
	}
	began := time.Now()
	snap, err := r.Collection.Reconstruct(ctx, rev)
	r.counts.operated(operationList, began, err)
	r.counts.past.Add(1)
	if err != nil {
		return snap, s.expired(err, rev)
	}
	r.counts.pastFetched.Add(int64(snap.Len()))
	r.counts.pastReturned.Add(int64(snap.Len()))
	return snap, nil
}

// expired turns a compaction into upstream's 410.
func (s *Server) expired(err error, rev int64) error {
	var compacted *store.CompactedError
	if errors.As(err, &compacted) {
		return apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	}
	return unavailable(err)
}

func expiredContinue(start string) error {
	err := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.")
	err.ErrStatus.ListMeta.Continue = encodeContinue(-1, start)
	return err
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

type continueToken struct {
	APIVersion string `json:"v"`
	Revision   int64  `json:"rv"`
	Start      string `json:"start"`
}

func encodeContinue(rev int64, start string) string {
	data, _ := json.Marshal(continueToken{"meta.k8s.io/v1", rev, start})
	return base64.RawURLEncoding.EncodeToString(data)
}

func decodeContinue(token string) (rev int64, start string, err error) {
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return 0, "", err
	}
	var t continueToken
	if err := json.Unmarshal(data, &t); err != nil {
		return 0, "", err
	}
	switch {
	case t.APIVersion != "meta.k8s.io/v1":
		return 0, "", fmt.Errorf("server does not recognize this encoded version %q", t.APIVersion)
	case t.Revision == 0:
		return 0, "", fmt.Errorf("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
	case t.Start == "" || path.Clean("/"+t.Start) != "/"+t.Start:
		// A start outside the list would show what the requester may not see.
		return 0, "", fmt.Errorf("invalid start key %s", strconv.Quote(t.Start))
	}
	return t.Revision, t.Start, nil
}
