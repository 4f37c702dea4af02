package statefulset

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/history"
	"skiff/internal/controllers/pods"
)

// step is one step of a set: what it has, and what it should have.
type step struct {
	*reconciler
	set    *appsv1.StatefulSet
	key    types.NamespacedName
	now    time.Time
	update string // the name of the newest revision

	found []*corev1.Pod
	// replicas are the pods that should be, by their order; those that are not
	// stored yet are as they will be made. condemned are those beyond, the
	// highest ordinal first.
	replicas, condemned []*corev1.Pod
	// deleted are pods that this step deletes.
	deleted sync.Map
}

// plan sorts the pods that were found.
func (s *step) plan(current, update *appsv1.ControllerRevision, found []*corev1.Pod) error {
	s.update, s.found = update.Name, found
	s.replicas = make([]*corev1.Pod, ptr.Deref(s.set.Spec.Replicas, 1))
	for _, p := range found {
		name, ordinal := parent(p)
		switch {
		case name != s.set.Name:
		case inRange(s.set, ordinal):
			s.replicas[ordinal-start(s.set)] = p
		default:
			s.condemned = append(s.condemned, p)
		}
	}
	slices.SortFunc(s.condemned, func(a, b *corev1.Pod) int {
		_, i := parent(a)
		_, j := parent(b)
		return j - i
	})
	old := &s.set.Spec.Template
	if current.Name != update.Name {
		var err error
		if old, err = history.Template(current); err != nil {
			return err
		}
	}
	for i, p := range s.replicas {
		switch {
		case p != nil:
		case i < s.partition() && s.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType:
			s.replicas[i] = newPod(s.set, old, current.Name, start(s.set)+i)
		default:
			s.replicas[i] = newPod(s.set, &s.set.Spec.Template, update.Name, start(s.set)+i)
		}
	}
	return nil
}

// partition is how many of the first replicas stay at the current revision.
func (s *step) partition() int {
	if u := s.set.Spec.UpdateStrategy.RollingUpdate; u != nil {
		return int(ptr.Deref(u.Partition, 0))
	}
	return 0
}

// ordered sets change one pod at a time.
func (s *step) ordered() bool {
	return s.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
}

func (s *step) terminating(p *corev1.Pod) bool {
	_, deleted := s.deleted.Load(p.UID)
	return deleted || p.DeletionTimestamp != nil
}

func (s *step) available(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodRunning && pods.Available(p, s.set.Spec.MinReadySeconds, s.now)
}

// run does what can be done now: pods that are missing first, then those that
// are too many, and only when nothing of this is to be waited for, the update.
func (s *step) run(ctx context.Context) error {
	if wait, err := s.each(s.replicas, func(i int) (bool, error) { return s.keep(ctx, i) }); wait || err != nil {
		return err
	}
	for _, p := range s.condemned {
		if err := s.retain(ctx, p); err != nil {
			return err
		}
	}
	unhealthy := s.firstUnhealthy()
	if wait, err := s.each(s.condemned, func(i int) (bool, error) { return s.shrink(ctx, s.condemned[i], unhealthy) }); wait || err != nil {
		return err
	}
	if s.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return nil
	}
	return s.roll(ctx)
}

// each calls f for every pod: of an ordered set one after the other until one
// is to be waited for, and otherwise many at a time.
func (s *step) each(all []*corev1.Pod, f func(i int) (wait bool, err error)) (bool, error) {
	if !s.ordered() {
		_, err := pods.SlowStart(len(all), func(i int) error {
			_, err := f(i)
			return err
		})
		return false, err
	}
	for i := range all {
		if wait, err := f(i); wait || err != nil {
			return wait, err
		}
	}
	return false, nil
}

// keep makes sure of a pod that should be there; wait is set while that is on
// its way.
func (s *step) keep(ctx context.Context, i int) (wait bool, err error) {
	p := s.replicas[i]
	if pods.Finished(p) {
		// A new one is made once the name is free.
		if p.DeletionTimestamp == nil {
			s.noteEnd(p)
			err = s.delete(ctx, p)
		}
		return true, err
	}
	if !stored(p) {
		if stale, err := s.claimStale(ctx, p); stale || err != nil {
			return true, err
		}
		if err := s.create(ctx, p); err != nil || s.ordered() {
			return true, err
		}
	}
	if p.Status.Phase == corev1.PodPending {
		if err := s.ensureClaims(ctx, p); err != nil {
			return true, err
		}
	}
	if s.ordered() && (p.DeletionTimestamp != nil || !s.available(p)) {
		return true, nil
	}
	if err := s.retain(ctx, p); err != nil {
		return true, err
	}
	_, ordinal := parent(p)
	if identified(p, ordinal) {
		return false, nil
	}
	next := p.DeepCopy()
	identify(next, ordinal)
	if err := s.Client.Update(ctx, next); err != nil {
		s.note("update", p, err)
		return true, crclient.IgnoreNotFound(err)
	}
	s.tracker.Wrote(s.key, next)
	s.note("update", p, nil)
	return false, nil
}

// firstUnhealthy is the one pod that an ordered set may remove although it does
// not work: the first that does not.
func (s *step) firstUnhealthy() *corev1.Pod {
	for _, p := range s.replicas {
		if !s.available(p) || s.terminating(p) {
			return p
		}
	}
	for _, p := range slices.Backward(s.condemned) {
		if !s.available(p) || s.terminating(p) {
			return p
		}
	}
	return nil
}

// shrink removes a pod that is too many.
func (s *step) shrink(ctx context.Context, p, unhealthy *corev1.Pod) (wait bool, err error) {
	if p.DeletionTimestamp != nil {
		return true, nil
	}
	if s.ordered() && !s.available(p) && p != unhealthy {
		return true, nil
	}
	return true, s.delete(ctx, p)
}

// roll replaces pods of older revisions, the highest ordinal first: those that
// do not work, and others as long as no more than one does not.
func (s *step) roll(ctx context.Context) error {
	room := 1
	for _, p := range s.replicas {
		if !s.available(p) || s.terminating(p) {
			room--
		}
	}
	for i := len(s.replicas) - 1; i >= min(s.partition(), len(s.replicas)); i-- {
		p := s.replicas[i]
		if revisionOf(p) == s.update || s.terminating(p) || !stored(p) {
			continue
		}
		if s.available(p) {
			if room <= 0 {
				continue
			}
			room--
		}
		if err := s.delete(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (s *step) create(ctx context.Context, p *corev1.Pod) error {
	if err := s.ensureClaims(ctx, p); err != nil {
		s.note("create", p, err)
		return err
	}
	err := s.Client.Create(ctx, p)
	if err == nil {
		s.tracker.Created(s.key, p)
	}
	if !apierrors.IsAlreadyExists(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		s.note("create", p, err)
	}
	return err
}

func (s *step) delete(ctx context.Context, p *corev1.Pod) error {
	err := s.Client.Delete(ctx, p, crclient.Preconditions{UID: &p.UID})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err == nil {
		s.tracker.Deleted(s.key, p.UID)
		s.deleted.Store(p.UID, true)
	}
	s.note("delete", p, err)
	return err
}

// noteEnd leaves an Event at the set about a pod that has to be made anew.
func (s *step) noteEnd(p *corev1.Pod) {
	if p.Status.Phase == corev1.PodFailed {
		s.events.Eventf(s.set, corev1.EventTypeWarning, "RecreatingFailedPod", "StatefulSet %s/%s is recreating failed Pod %s", s.set.Namespace, s.set.Name, p.Name)
		return
	}
	s.events.Eventf(s.set, corev1.EventTypeNormal, "RecreatingTerminatedPod", "StatefulSet %s/%s is recreating terminated Pod %s", s.set.Namespace, s.set.Name, p.Name)
}

// note leaves an Event about a pod at the set.
func (s *step) note(verb string, p *corev1.Pod, err error) {
	title := map[string]string{"create": "Create", "delete": "Delete", "update": "Update"}[verb]
	if err != nil {
		s.events.Eventf(s.set, corev1.EventTypeWarning, "Failed"+title, "%s Pod %s in StatefulSet %s failed error: %s", verb, p.Name, s.set.Name, err)
		return
	}
	s.events.Event(s.set, corev1.EventTypeNormal, "Successful"+title, fmt.Sprintf("%s Pod %s in StatefulSet %s successful", verb, p.Name, s.set.Name))
}

// status counts the pods as they are after the step.
func (s *step) status(current, update string) appsv1.StatefulSetStatus {
	status := *s.set.Status.DeepCopy()
	status.ObservedGeneration = s.set.Generation
	status.CurrentRevision, status.UpdateRevision = current, update
	status.CollisionCount = ptr.To(ptr.Deref(status.CollisionCount, 0))
	status.Replicas, status.ReadyReplicas, status.AvailableReplicas, status.CurrentReplicas, status.UpdatedReplicas = 0, 0, 0, 0, 0
	all := s.found
	if s.replicas != nil {
		all = append(slices.Clone(s.replicas), s.condemned...)
	}
	for _, p := range all {
		if !stored(p) {
			continue
		}
		status.Replicas++
		if runsReady(p) {
			status.ReadyReplicas++
			if s.available(p) {
				status.AvailableReplicas++
			}
		}
		if s.terminating(p) {
			continue
		}
		if revisionOf(p) == current {
			status.CurrentReplicas++
		}
		if revisionOf(p) == update {
			status.UpdatedReplicas++
		}
	}
	want := ptr.Deref(s.set.Spec.Replicas, 1)
	if s.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType &&
		status.UpdatedReplicas == want && status.ReadyReplicas == want && status.Replicas == want {
		status.CurrentReplicas, status.CurrentRevision = status.UpdatedReplicas, update
	}
	return status
}
