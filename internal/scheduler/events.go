package scheduler

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	toolscache "k8s.io/client-go/tools/cache"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/scheduler/framework"
)

// source starts to hand over the events of one kind of objects, and returns when
// it has handed over those that there are. stop ends it.
type source func(ctx context.Context) (stop func(), err error)

// follow starts to take in events and returns when the present state has been
// taken in. stop ends it.
func (s *Scheduler) follow(ctx context.Context) (stop func(), err error) {
	// Nodes come before the pods on them, and namespaces before pods are tried.
	sources := slices.Concat(s.volumeSources(), s.deviceSources(), []source{
		watch(s, &corev1.Namespace{}, s.namespaceEventLocked),
		watch(s, &corev1.Service{}, s.serviceEventLocked),
		watch(s, &corev1.Node{}, s.nodeEventLocked),
		watch(s, &corev1.Pod{}, s.podEventLocked),
	})
	var stops []func()
	stop = func() {
		for _, f := range stops {
			f()
		}
	}
	for _, start := range sources {
		f, err := start(ctx)
		if err != nil {
			return stop, err
		}
		stops = append(stops, f)
	}
	return stop, nil
}

// watch calls changed, with the lock held, for each object of kind and each
// change of one; old or now is nil if the object is new or gone.
func watch[T crclient.Object](s *Scheduler, kind T, changed func(old, now T)) source {
	var none T
	handle := func(old, now T) {
		s.mu.Lock()
		defer s.mu.Unlock()
		changed(old, now)
		s.wake()
	}
	handler := toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { handle(none, o.(T)) },
		UpdateFunc: func(old, now any) { handle(old.(T), now.(T)) },
		DeleteFunc: func(o any) {
			if unknown, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = unknown.Obj
			}
			if gone, ok := o.(T); ok {
				handle(gone, none)
			}
		},
	}
	return func(ctx context.Context) (stop func(), err error) {
		informer, err := s.client.Cache.GetInformer(ctx, kind)
		if err != nil {
			return nil, fmt.Errorf("scheduler: following %T: %w", kind, err)
		}
		registration, err := informer.AddEventHandler(handler)
		if err != nil {
			return nil, fmt.Errorf("scheduler: following %T: %w", kind, err)
		}
		select {
		case <-registration.HasSyncedChecker().Done():
		case <-ctx.Done():
		}
		return func() {
			if err := informer.RemoveEventHandler(registration); err != nil {
				s.log.Warn("an event handler could not be removed", "error", err)
			}
		}, nil
	}
}

func (s *Scheduler) namespaceEventLocked(old, now *corev1.Namespace) {
	if now == nil {
		delete(s.mu.namespaces, old.Name)
		return
	}
	if known, ok := s.mu.namespaces[now.Name]; ok && maps.Equal(known, now.Labels) {
		return
	}
	s.mu.namespaces[now.Name] = labels.Set(now.Labels)
	// Which pods a term with a namespace selector is about may have changed.
	s.mu.classes.Clear()
	s.mu.queue.Wake(framework.Event{Kind: framework.NamespaceChanged, Namespace: now.Name})
}

// serviceEventLocked forgets the classes if a service selects other pods now:
// equal pods of a service are spread.
func (s *Scheduler) serviceEventLocked(old, now *corev1.Service) {
	if old != nil && now != nil && maps.Equal(old.Spec.Selector, now.Spec.Selector) {
		return
	}
	s.mu.classes.Clear()
	if now != nil {
		s.mu.classes.Regard(slices.Collect(maps.Keys(now.Spec.Selector)))
	}
}

func (s *Scheduler) nodeEventLocked(old, now *corev1.Node) {
	if now == nil {
		s.mu.cache.DeleteNode(old.Name)
		s.volumes.Changed()
		s.mu.queue.Wake(framework.Event{Kind: framework.NodeGone, Node: old})
		return
	}
	known := s.mu.cache.Node(now.Name)
	switch {
	case known == nil:
		s.mu.cache.SetNode(now)
		s.mu.queue.Wake(framework.Event{Kind: framework.NodeAdded, Node: now})
	case relevant(known.Node, now):
		before := known.Node
		s.mu.cache.SetNode(now)
		s.mu.queue.Wake(framework.Event{Kind: framework.NodeChanged, OldNode: before, Node: now})
	}
}

// relevant reports whether a node changed in what rules look at, and not only
// in its heartbeat.
func relevant(old, now *corev1.Node) bool {
	return old.Spec.Unschedulable != now.Spec.Unschedulable ||
		!maps.Equal(old.Labels, now.Labels) ||
		!reflect.DeepEqual(old.Spec.Taints, now.Spec.Taints) ||
		!sameResources(old.Status.Allocatable, now.Status.Allocatable) ||
		!reflect.DeepEqual(old.Status.Images, now.Status.Images)
}

func sameResources(a, b corev1.ResourceList) bool {
	if len(a) != len(b) {
		return false
	}
	for name, q := range a {
		if o, ok := b[name]; !ok || q.Cmp(o) != 0 {
			return false
		}
	}
	return true
}

func (s *Scheduler) podEventLocked(old, now *corev1.Pod) {
	if now == nil || now.Status.Phase == corev1.PodSucceeded || now.Status.Phase == corev1.PodFailed {
		if now == nil {
			now = old
		}
		s.podGoneLocked(now)
		return
	}
	if now.Spec.NodeName != "" {
		s.podPlacedLocked(now)
		return
	}
	if s.profileOf(now) == nil {
		return
	}
	if now.DeletionTimestamp != nil {
		// It will never run: whoever had made room for it may use that.
		s.podGoneLocked(now)
		return
	}
	p := framework.NewPodInfo(now)
	s.mu.classes.Regard(p.Selects)
	s.mu.queue.Set(p)
	if old != nil && old.Status.NominatedNodeName != now.Status.NominatedNodeName {
		s.nominateLocked(p, now.Status.NominatedNodeName)
	}
	if old == nil && now.Status.NominatedNodeName != "" {
		s.nominateLocked(p, now.Status.NominatedNodeName)
	}
}

func (s *Scheduler) podPlacedLocked(pod *corev1.Pod) {
	if p, waiting := s.mu.queue.Delete(pod.UID); waiting {
		s.nominateLocked(p, "")
	}
	p := framework.NewPodInfo(pod)
	s.mu.classes.Regard(p.Selects)
	was := s.mu.cache.SetPod(p)
	switch {
	case was == nil:
		s.mu.queue.Wake(framework.Event{Kind: framework.PodPlaced, Pod: p, Namespace: p.Namespace})
	case was.Spec.NodeName == "":
		// It was assumed to be there, which helped nobody yet.
		s.mu.queue.Wake(framework.Event{Kind: framework.PodPlaced, Pod: p, Namespace: p.Namespace})
	case !was.SameForOthers(p):
		s.mu.queue.Wake(framework.Event{Kind: framework.PodChanged, OldPod: was, Pod: p, Namespace: p.Namespace})
	}
}

func (s *Scheduler) podGoneLocked(pod *corev1.Pod) {
	if p, waiting := s.mu.queue.Delete(pod.UID); waiting {
		if host := s.mu.cache.Node(s.mu.nominated[p.UID]); host != nil {
			s.nominateLocked(p, "")
			s.mu.queue.Wake(framework.Event{Kind: framework.PodGone, OldPod: p, Host: host, Namespace: p.Namespace})
		}
	}
	s.volumes.Changed()
	if was := s.mu.cache.DeletePod(pod.UID); was != nil {
		s.mu.queue.Wake(framework.Event{Kind: framework.PodGone, OldPod: was, Host: s.mu.cache.Node(pod.Spec.NodeName), Namespace: was.Namespace})
	}
}
