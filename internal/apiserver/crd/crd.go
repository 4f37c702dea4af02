// Package crd serves custom resources. It follows the cluster's
// CustomResourceDefinitions and makes of each the same kind of declaration that
// built-in resources have, so that everything else (verbs, HTTP, watches,
// discovery, garbage collection) is generic over both. Schemas are compiled,
// and descriptions made, when they are first needed: a definition that nobody
// uses costs next to nothing.
//
// A definition is served before its condition Established says so, and its
// objects are removed before it goes.
package crd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	skiffcel "skiff/internal/apiserver/cel"
	"skiff/internal/apiserver/verbs"
	"skiff/internal/identity"
	"skiff/internal/store/cache"
)

var definitions = schema.GroupResource{Group: apiextensionsv1.GroupName, Resource: "customresourcedefinitions"}

// Config is what a Controller is made of.
type Config struct {
	Verbs *verbs.Server
	// Webhooks calls conversion webhooks.
	Webhooks Caller
	Clock    clock.Clock
	Log      *slog.Logger
	// Metrics tell how long checks take; CEL those of their expressions.
	Metrics *Metrics
	CEL     *skiffcel.Metrics
}

// Controller keeps what is served in step with the definitions.
type Controller struct {
	Config
	resource *verbs.Resource // of the definitions themselves

	// served are the definitions being served, claims the names that there are,
	// both by the name of the definition. Only the goroutine that follows the
	// definitions uses them.
	served map[string]*definition
	claims map[string]claim

	cleaning struct {
		sync.Mutex
		names map[string]bool
	}
}

// Start serves the definitions that there are, then follows their changes
// until ctx ends.
func Start(ctx context.Context, c Config) (*Controller, error) {
	t := &Controller{Config: c, resource: c.Verbs.Lookup(definitions), served: map[string]*definition{}, claims: map[string]claim{}}
	if t.resource == nil {
		return nil, fmt.Errorf("%s are not served", definitions)
	}
	t.cleaning.names = map[string]bool{}
	ctx = identity.NewContext(verbs.WithUserAgent(ctx, "kube-apiserver"), identity.Loopback())
	snap, w := t.resource.Collection.SnapshotAndWatch(cache.Scope{})
	t.all(ctx, snap)
	go t.follow(ctx, w)
	return t, nil
}

// awaitLimit bounds Await for definitions that cannot be served.
const awaitLimit = 5 * time.Second

// Await returns when a version of a resource that another server has
// established is served here, too; at once if no definition says so.
func (c *Controller) Await(ctx context.Context, gv schema.GroupVersion, plural string) {
	ctx, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	if c.Verbs.Cache().Sync(ctx) != nil {
		return
	}
	for {
		_, changed := c.Verbs.Generation()
		r := c.Verbs.Lookup(gv.WithResource(plural).GroupResource())
		if r != nil && r.Version(gv) != nil || !c.shouldServe(gv, plural) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (c *Controller) shouldServe(gv schema.GroupVersion, plural string) bool {
	crd := definitionIn(c.entry(plural + "." + gv.Group))
	return crd != nil && apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) && apihelpers.HasServedCRDVersion(crd, gv.Version)
}

// entry returns what the cache has of a definition, nil if there is none.
func (c *Controller) entry(name string) *cache.Entry {
	return c.resource.Collection.Get(c.resource.Collection.Key("", name))
}

// definitionIn reads the definition in e, nil if there is none. It takes no
// lock of the cache.
func definitionIn(e *cache.Entry) *apiextensionsv1.CustomResourceDefinition {
	if e == nil {
		return nil
	}
	obj, err := e.Object()
	if err != nil {
		return nil
	}
	return obj.(*apiextensionsv1.CustomResourceDefinition)
}

func (c *Controller) follow(ctx context.Context, w *cache.Watcher) {
	defer func() { w.Stop() }()
	for {
		events, err := w.Next(ctx)
		if errors.Is(err, cache.ErrFellBehind) {
			w.Stop()
			w = c.resume(ctx)
			continue
		}
		if err != nil {
			return
		}
		for _, ev := range events {
			if ev.New == nil {
				c.removed(ctx, strings.TrimPrefix(ev.Last.Key, c.resource.Prefix+"/"))
			} else {
				c.changed(ctx, ev.New)
			}
		}
	}
}

// resume looks at everything anew after events were missed.
func (c *Controller) resume(ctx context.Context) *cache.Watcher {
	snap, w := c.resource.Collection.SnapshotAndWatch(cache.Scope{})
	for name := range c.claims {
		if snap.Get(c.resource.Collection.Key("", name)) == nil {
			c.forget(name)
		}
	}
	c.all(ctx, snap)
	return w
}

// all looks at every definition, once the names of all are known. It reads each
// twice rather than hold all of them at once.
func (c *Controller) all(ctx context.Context, snap cache.Snapshot) {
	each := func(f func(e *cache.Entry)) {
		snap.Ascend(c.resource.Prefix+"/", "", func(e *cache.Entry) bool {
			f(e)
			return ctx.Err() == nil
		})
	}
	each(func(e *cache.Entry) {
		if crd := definitionIn(e); crd != nil {
			c.note(crd)
		}
	})
	each(func(e *cache.Entry) { c.changed(ctx, e) })
}

func (c *Controller) removed(ctx context.Context, name string) {
	group := c.claims[name].group
	c.forget(name)
	c.reconsider(ctx, group, name)
}

// forget gives up the names of a definition that is gone and serves it no more.
func (c *Controller) forget(name string) {
	delete(c.claims, name)
	if d := c.served[name]; d != nil {
		delete(c.served, name)
		c.Verbs.Remove(schema.GroupResource{Group: d.crd.Spec.Group, Resource: d.names.Plural})
	}
}

// reconsider gives the definitions of the group that were refused names
// another try, now that one of them, by, may have freed some.
func (c *Controller) reconsider(ctx context.Context, group, by string) {
	for _, name := range slices.Sorted(maps.Keys(c.claims)) {
		if claim := c.claims[name]; name == by || claim.group != group || !claim.refused {
			continue
		}
		e := c.entry(name)
		if crd := definitionIn(e); crd != nil {
			c.reconcile(ctx, e, crd)
		}
	}
}

// claim is what a definition has of the names of its group.
type claim struct {
	group string
	names apiextensionsv1.CustomResourceDefinitionNames
	// refused says that it wants more.
	refused bool
}

func (c *Controller) note(crd *apiextensionsv1.CustomResourceDefinition) {
	c.claims[crd.Name] = claim{crd.Spec.Group, *crd.Status.AcceptedNames.DeepCopy(), !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.NamesAccepted)}
}

func (c *Controller) changed(ctx context.Context, e *cache.Entry) {
	obj, err := e.Object()
	if err != nil {
		c.Log.Error("a stored CustomResourceDefinition is not readable", "key", e.Key, "error", err)
		return
	}
	crd := obj.(*apiextensionsv1.CustomResourceDefinition)
	c.note(crd)
	before := c.served[crd.Name]
	c.reconcile(ctx, e, crd)
	if after := c.served[crd.Name]; before != nil && after != nil && !equality.Semantic.DeepEqual(before.names, after.names) {
		c.reconsider(ctx, crd.Spec.Group, crd.Name)
	}
}

// reconcile decides on the names of crd, which is what e holds, serves the
// resource, and then says so in the status.
func (c *Controller) reconcile(ctx context.Context, e *cache.Entry, crd *apiextensionsv1.CustomResourceDefinition) {
	next := withOwnStatus(crd)
	c.acceptNames(next)
	noteApproval(next)
	noteStructure(next)
	if apihelpers.IsCRDConditionTrue(next, apiextensionsv1.Established) {
		if err := c.serve(ctx, e, crd, &next.Status.AcceptedNames); err != nil {
			c.Log.Error("a custom resource cannot be served", "definition", crd.Name, "error", err)
			return
		}
	}
	if !equality.Semantic.DeepEqual(next.Status, crd.Status) {
		// The write is seen as the next change; other definitions may be looked
		// at before that.
		err := c.write(ctx, next)
		if err == nil {
			c.note(next)
		} else if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			c.Log.Error("the status of a CustomResourceDefinition cannot be written", "definition", crd.Name, "error", err)
		}
		return
	}
	if crd.DeletionTimestamp != nil && apihelpers.CRDHasFinalizer(crd, apiextensionsv1.CustomResourceCleanupFinalizer) {
		c.startCleanup(ctx, crd.Name, c.served[crd.Name])
	}
}

// withOwnStatus is a copy of crd whose metadata and status may be changed; the
// specification is shared.
func withOwnStatus(crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.CustomResourceDefinition {
	next := *crd
	next.ObjectMeta, next.Status = *crd.ObjectMeta.DeepCopy(), *crd.Status.DeepCopy()
	return &next
}

// serve makes what is served that which crd, the content of e, says.
func (c *Controller) serve(ctx context.Context, e *cache.Entry, crd *apiextensionsv1.CustomResourceDefinition, names *apiextensionsv1.CustomResourceDefinitionNames) error {
	old := c.served[crd.Name]
	same := old != nil && old.crd.UID == crd.UID
	l := &life{}
	if same {
		l = old.life
	}
	l.entry.Store(e)
	ending := l.terminating.Swap(crd.DeletionTimestamp != nil) != (crd.DeletionTimestamp != nil)
	if same && old.crd.Generation == crd.Generation && equality.Semantic.DeepEqual(old.names, names) {
		if ending {
			c.Verbs.Announce()
		}
		return nil
	}
	d := newDefinition(&c.Config, crd, names, l, l.definition)
	if old == nil {
		if _, err := c.Verbs.Add(ctx, d.resource()); err != nil {
			return err
		}
	} else if _, err := c.Verbs.Replace(d.resource()); err != nil {
		return err
	}
	c.served[crd.Name] = d
	return nil
}

// write stores the status and the finalizers of a definition, which nobody may
// change any more.
func (c *Controller) write(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) error {
	req := &verbs.Request{Version: c.resource.Versions[0], Name: crd.Name, Subresource: "status"}
	_, _, err := c.Verbs.Update(ctx, req, crd, &metav1.UpdateOptions{})
	return err
}
