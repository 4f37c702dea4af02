// Package garbagecollector deletes objects whose owners are gone, and carries
// out foreground and orphaning deletion (Garbage Collection documentation).
package garbagecollector

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

const (
	workers = 20
	// readLimit bounds the reading of an owner's dependents from the cache.
	readLimit = 10 * time.Second
)

type collector struct {
	controller.Deps
	discover controller.Discover
	events   record.EventRecorder
	graph    *graph
	queue    controller.Queue
	crds     kinds
	// monitored are the kinds of which the graph hears.
	monitored atomic.Pointer[[]registration]
}

// kinds are those that definitions in force define.
type kinds struct {
	mu  sync.Mutex
	all map[schema.GroupKind]struct{}
}

func (k *kinds) set(kind schema.GroupKind, there bool) (changed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, before := k.all[kind]
	if there {
		k.all[kind] = struct{}{}
	} else {
		delete(k.all, kind)
	}
	return before != there
}

func (k *kinds) each(f func(schema.GroupKind)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for kind := range k.all {
		f(kind)
	}
}

// New makes the garbage collector. Its keys are UIDs.
func New(d controller.Deps, discover controller.Discover) (controller.Runnable, error) {
	c := &collector{Deps: d, discover: discover, events: d.Recorder("garbage-collector-controller"), graph: newGraph()}
	c.crds.all = map[schema.GroupKind]struct{}{}
	m := &monitors{
		collector: c, changed: make(chan struct{}, 1), synced: make(chan struct{}),
		watched: map[schema.GroupKind]registration{},
	}
	return controller.New(d, "garbagecollector", workers, c.reconcile, m,
		controller.Watch(d, &apiextensionsv1.CustomResourceDefinition{}, func(_ controller.Queue, old, crd *apiextensionsv1.CustomResourceDefinition) {
			changed := false
			if crd == nil {
				kind, _ := established(old)
				changed = c.crds.set(kind, false)
			} else {
				kind, ok := established(crd)
				changed = c.crds.set(kind, ok)
			}
			if changed {
				m.trigger()
			}
		}),
		controller.Watch(d, &apiregistrationv1.APIService{}, func(_ controller.Queue, old, _ *apiregistrationv1.APIService) {
			m.trigger()
		}))
}

func (c *collector) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	v, ok := c.graph.look(types.UID(key.Name))
	switch {
	case !ok:
		return reconcile.Result{}, nil
	case v.orphan:
		return reconcile.Result{}, c.orphan(ctx, v)
	case v.deleted && !v.foreground, v.settled && !v.foreground:
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, c.attempt(ctx, v)
}

// get reads the object anew; it is nil if that object is gone.
func (c *collector) get(ctx context.Context, id identity) (*metav1.PartialObjectMetadata, error) {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(id.GroupVersionKind)
	err := c.Client.Get(ctx, id.NamespacedName, o)
	if apierrors.IsNotFound(err) || err == nil && o.UID != id.UID {
		return nil, nil
	}
	return o, err
}

// attempt deletes the object if nothing holds it, or lets go of it what no
// longer does.
func (c *collector) attempt(ctx context.Context, v view) error {
	if v.virtual {
		mapping, err := c.Client.RESTMapper().RESTMapping(v.GroupKind(), v.Version)
		if err != nil {
			return err
		}
		if mapping.Scope.Name() == meta.RESTScopeNameRoot {
			v.Namespace = ""
		} else if v.Namespace == "" {
			// A cluster-scoped dependent named a namespaced owner, which nobody
			// can find: judged at the dependent.
			return nil
		}
	}
	o, err := c.get(ctx, v.identity)
	if err != nil {
		return err
	}
	if o == nil {
		c.look(c.graph.remove(v.UID)...)
		return nil
	}
	if v.virtual {
		return nil // its own event is on its way
	}
	if v.foreground {
		return c.finishForeground(ctx, v, o)
	}
	if len(o.OwnerReferences) == 0 {
		return nil
	}
	solid, gone, waiting, err := c.classify(ctx, o)
	switch {
	case err != nil:
		return err
	case solid > 0:
		if len(gone)+len(waiting) == 0 {
			return nil
		}
		return c.patchOwners(ctx, o, func(r metav1.OwnerReference) (metav1.OwnerReference, bool) {
			return r, !slices.Contains(gone, r.UID) && !slices.Contains(waiting, r.UID)
		})
	case len(waiting) > 0 && len(v.dependents) > 0:
		// Its owner goes in the foreground, so it does too. In a circle somebody
		// has to stop blocking.
		if slices.ContainsFunc(v.dependents, func(d dependent) bool { return d.foreground }) {
			err := c.patchOwners(ctx, o, func(r metav1.OwnerReference) (metav1.OwnerReference, bool) {
				r.BlockOwnerDeletion = nil
				return r, true
			})
			if err != nil {
				return err
			}
			o.ResourceVersion = ""
		}
		return c.delete(ctx, o, metav1.DeletePropagationForeground)
	}
	policy := metav1.DeletePropagationBackground
	switch {
	case slices.Contains(o.Finalizers, metav1.FinalizerOrphanDependents):
		policy = metav1.DeletePropagationOrphan
	case slices.Contains(o.Finalizers, metav1.FinalizerDeleteDependents):
		policy = metav1.DeletePropagationForeground
	}
	return c.delete(ctx, o, policy)
}

// finishForeground lets an object go whose blocking dependents are gone.
func (c *collector) finishForeground(ctx context.Context, v view, o *metav1.PartialObjectMetadata) error {
	blocked := false
	for _, d := range v.dependents {
		if d.blocking {
			blocked = true
			if !d.foreground {
				c.look(d.UID)
			}
		}
	}
	if blocked {
		return nil
	}
	stored, err := c.dependents(ctx, v)
	if err != nil {
		return err
	}
	for _, d := range stored {
		if d.blocking {
			return nil // its own event is on its way, and makes it go
		}
	}
	return c.removeFinalizer(ctx, o, metav1.FinalizerDeleteDependents)
}

// classify counts the owners that hold o, and lists those that are gone and
// those that wait for o to go.
func (c *collector) classify(ctx context.Context, o *metav1.PartialObjectMetadata) (solid int, gone, waiting []types.UID, err error) {
	for _, ref := range o.OwnerReferences {
		gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
		mapping, err := c.Client.RESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
		if err != nil {
			return 0, nil, nil, err
		}
		id := identity{gvk, types.NamespacedName{Name: ref.Name}, ref.UID}
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			elsewhere := c.graph.elsewhere(ref.UID, o.Namespace)
			if o.Namespace == "" || elsewhere {
				c.events.Eventf(o, corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef %s does not exist in namespace %q", ref.String(), o.Namespace)
			}
			if o.Namespace == "" {
				solid++
				continue
			}
			id.Namespace = o.Namespace
		}
		if c.graph.isAbsent(id.reference()) {
			gone = append(gone, ref.UID)
			continue
		}
		owner, err := c.get(ctx, id)
		switch {
		case err != nil:
			return 0, nil, nil, err
		case owner == nil:
			c.graph.setAbsent(id.reference())
			gone = append(gone, ref.UID)
		case owner.DeletionTimestamp != nil && slices.Contains(owner.Finalizers, metav1.FinalizerDeleteDependents):
			waiting = append(waiting, ref.UID)
		default:
			solid++
		}
	}
	return solid, gone, waiting, nil
}

// dependents are the objects that name the owner: those of the graph, and those
// that are stored, but whose event is still on its way to it, since each kind's
// events come by themselves.
func (c *collector) dependents(ctx context.Context, owner view) (map[types.UID]dependent, error) {
	// A cache waits for what it has not read: for a server that comes back as
	// another one, it may wait for good.
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	all := map[types.UID]dependent{}
	for _, d := range owner.dependents {
		all[d.UID] = d
	}
	for _, r := range *c.monitored.Load() {
		// What is not read yet, as from a server that is away, cannot be listed.
		if !r.HasSynced() || owner.Namespace != "" && !r.resource.Namespaced {
			continue
		}
		list := r.resource.MetadataList()
		err := c.Cache.List(ctx, list, crclient.InNamespace(owner.Namespace), crclient.UnsafeDisableDeepCopy)
		if meta.IsNoMatchError(err) {
			continue // its definition ended just now
		}
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			o := &list.Items[i]
			for _, ref := range o.OwnerReferences {
				if ref.UID == owner.UID {
					all[o.UID] = dependent{identity: identity{r.resource.GVK(), crclient.ObjectKeyFromObject(o), o.UID}, blocking: blocks(ref)}
				}
			}
		}
	}
	return all, nil
}

// orphan releases an object's dependents and then the object: those that it
// missed would be taken for left behind, and deleted.
func (c *collector) orphan(ctx context.Context, v view) error {
	dependents, err := c.dependents(ctx, v)
	if err != nil {
		return err
	}
	for _, d := range dependents {
		o, err := c.get(ctx, d.identity)
		if err != nil {
			return err
		}
		if o == nil {
			continue
		}
		err = c.patchOwners(ctx, o, func(r metav1.OwnerReference) (metav1.OwnerReference, bool) { return r, r.UID != v.UID })
		if err != nil {
			return err
		}
	}
	o, err := c.get(ctx, v.identity)
	if err != nil || o == nil {
		return err
	}
	return c.removeFinalizer(ctx, o, metav1.FinalizerOrphanDependents)
}

func (c *collector) delete(ctx context.Context, o *metav1.PartialObjectMetadata, policy metav1.DeletionPropagation) error {
	only := crclient.Preconditions{UID: &o.UID}
	if o.ResourceVersion != "" {
		only.ResourceVersion = &o.ResourceVersion
	}
	return crclient.IgnoreNotFound(c.Client.Delete(ctx, o, only, crclient.PropagationPolicy(policy)))
}

// patchOwners applies change to each owner reference; false drops it.
func (c *collector) patchOwners(ctx context.Context, o *metav1.PartialObjectMetadata, change func(metav1.OwnerReference) (metav1.OwnerReference, bool)) error {
	refs := []metav1.OwnerReference{}
	for _, r := range o.OwnerReferences {
		if r, keep := change(r); keep {
			refs = append(refs, r)
		}
	}
	return c.patch(ctx, o, map[string]any{"ownerReferences": refs})
}

func (c *collector) removeFinalizer(ctx context.Context, o *metav1.PartialObjectMetadata, name string) error {
	finalizers := []string{}
	for _, f := range o.Finalizers {
		if f != name {
			finalizers = append(finalizers, f)
		}
	}
	if len(finalizers) == len(o.Finalizers) {
		return nil
	}
	return c.patch(ctx, o, map[string]any{"finalizers": finalizers})
}

// patch changes metadata of exactly the object that was read.
func (c *collector) patch(ctx context.Context, o *metav1.PartialObjectMetadata, metadata map[string]any) error {
	metadata["uid"], metadata["resourceVersion"] = o.UID, o.ResourceVersion
	data, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	return crclient.IgnoreNotFound(c.Client.Patch(ctx, o.DeepCopy(), crclient.RawPatch(types.MergePatchType, data)))
}
