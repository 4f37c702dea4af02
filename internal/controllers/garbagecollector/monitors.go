package garbagecollector

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"skiff/internal/controllers/controller"
)

const (
	// syncLimit is how long the start waits for resources whose objects cannot
	// be read.
	syncLimit = 30 * time.Second
	// retry is the time between attempts to watch resources that should be
	// served and are not yet.
	retry = time.Second
)

// registration is a watch on one kind.
type registration struct {
	toolscache.ResourceEventHandlerRegistration
	informer cache.Informer
	resource controller.Resource
}

// monitors watch every resource that can be deleted. They are a source of the
// controller: Start begins, and WaitForSync waits for the graph to be whole.
type monitors struct {
	*collector
	watched map[schema.GroupKind]registration
	changed chan struct{}
	synced  chan struct{}
	// complaint is what discovery last lacked, to say it once.
	complaint string
}

func (m *monitors) Start(ctx context.Context, q controller.Queue) error {
	m.queue = q
	go func() {
		m.run(ctx)
	}()
	return nil
}

func (m *monitors) WaitForSync(ctx context.Context) error {
	select {
	case <-m.synced:
	case <-ctx.Done():
	}
	return nil
}

// trigger looks at what is served anew.
func (m *monitors) trigger() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

func (m *monitors) run(ctx context.Context) {
	first := true
	for {
		missing := m.watchAll(ctx)
		if first {
			first = false
			m.waitForObjects(ctx)
			close(m.synced)
		}
		var again <-chan time.Time
		var timer interface{ Stop() bool }
		if missing {
			t := m.Clock.NewTimer(retry)
			again, timer = t.C(), t
		}
		select {
		case <-ctx.Done():
		case <-again:
		case <-m.changed:
		}
		if timer != nil {
			timer.Stop()
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func (m *monitors) waitForObjects(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, syncLimit)
	defer cancel()
	for kind, registration := range m.watched {
		if !toolscache.WaitForCacheSync(ctx.Done(), registration.HasSynced) && ctx.Err() != context.Canceled {
			m.Log.Warn("garbage collection starts without all objects of a kind", "kind", kind.String())
		}
	}
}

// watchAll watches what is served and not yet watched; it reports whether
// something is missing that should be there.
func (m *monitors) watchAll(ctx context.Context) (missing bool) {
	served, err := m.discover.List(ctx, "list", "watch", "delete")
	if err != nil {
		missing = true
		if ctx.Err() == nil && err.Error() != m.complaint {
			m.complaint = err.Error()
			m.Log.Warn("not all served resources could be discovered", "error", err)
		}
	} else {
		m.complaint = ""
	}
	found := map[schema.GroupKind]bool{}
	for _, r := range served {
		kind := r.GVK().GroupKind()
		found[kind] = true
		if kind.Kind == "Event" && (kind.Group == "" || kind.Group == "events.k8s.io") {
			continue
		}
		if _, ok := m.watched[kind]; ok {
			continue
		}
		registration, err := m.watch(ctx, r)
		if err != nil {
			m.Log.Debug("a resource cannot be watched yet", "resource", r.GroupVersionResource.String(), "error", err)
			missing = true
			continue
		}
		m.watched[kind] = registration
	}
	maps.DeleteFunc(m.watched, func(kind schema.GroupKind, r registration) bool {
		if found[kind] || unknown(err, r.resource) {
			return false
		}
		// The errors are for informers that are not running any more.
		_ = r.informer.RemoveEventHandler(r.ResourceEventHandlerRegistration)
		_ = m.Cache.RemoveInformer(ctx, r.resource.Metadata())
		return true
	})
	m.crds.each(func(kind schema.GroupKind) { missing = missing || !found[kind] })
	monitored := slices.Collect(maps.Values(m.watched))
	m.monitored.Store(&monitored)
	return missing
}

// unknown reports whether discovery, which ended with err, leaves open if the
// resource is served: servers that are away for a while keep their resources.
func unknown(err error, r controller.Resource) bool {
	failed, some := discovery.GroupDiscoveryFailedErrorGroups(err)
	if !some {
		return err != nil
	}
	_, ok := failed[r.GroupVersion()]
	return ok
}

func (m *monitors) watch(ctx context.Context, r controller.Resource) (registration, error) {
	informer, err := m.Cache.GetInformer(ctx, r.Metadata(), cache.BlockUntilSynced(false))
	if err != nil {
		return registration{}, err
	}
	kind := r.GVK()
	see := func(o any) {
		if object, ok := o.(metav1.Object); ok {
			m.look(m.graph.observe(kind, object)...)
		}
	}
	added, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    see,
		UpdateFunc: func(_, o any) { see(o) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if object, ok := o.(metav1.Object); ok {
				m.look(m.graph.remove(object.GetUID())...)
			}
		},
	})
	return registration{added, informer, r}, err
}

// look puts objects on the queue.
func (c *collector) look(uids ...types.UID) {
	for _, uid := range uids {
		controller.Add(c.queue, "", string(uid))
	}
}

// established returns the kind that a definition defines, if it is in force.
func established(crd *apiextensionsv1.CustomResourceDefinition) (schema.GroupKind, bool) {
	ok := crd.DeletionTimestamp == nil && slices.ContainsFunc(crd.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
	})
	return schema.GroupKind{Group: crd.Spec.Group, Kind: crd.Spec.Names.Kind}, ok
}

func (m *monitors) String() string { return fmt.Sprintf("%d resources", len(m.watched)) }
