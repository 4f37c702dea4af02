package deployment

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/pods"
)

// The annotations by which Deployments and their ReplicaSets know of each
// other. kubectl rollout reads the first.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
)

// maxHistory bounds the length of historyAnnotation in bytes.
const maxHistory = 2000

// own are annotations of a Deployment that its ReplicaSets do not inherit.
func own(annotation string) bool {
	switch annotation {
	case corev1.LastAppliedConfigAnnotation, revisionAnnotation, historyAnnotation, desiredAnnotation, maxAnnotation, appsv1.DeprecatedRollbackTo:
		return true
	}
	return false
}

func revision(s *appsv1.ReplicaSet) int64 {
	n, _ := strconv.ParseInt(s.Annotations[revisionAnnotation], 10, 64)
	return n
}

// syncRevision brings revision numbers and annotations up to date, and makes
// the new ReplicaSet if there is none and create is set.
func (r *reconciler) syncRevision(ctx context.Context, w *rollout, create bool) error {
	var newest int64
	for _, s := range w.old {
		newest = max(newest, revision(s))
	}
	next := strconv.FormatInt(newest+1, 10)
	switch {
	case w.new != nil:
		set := w.new.DeepCopy()
		changed := inherit(w.d, set, next)
		if set.Spec.MinReadySeconds != w.d.Spec.MinReadySeconds {
			set.Spec.MinReadySeconds = w.d.Spec.MinReadySeconds
			changed = true
		}
		if changed {
			if err := r.update(ctx, w, set); err != nil {
				return err
			}
			w.new = set
		}
		setRevision(w.d, set.Annotations[revisionAnnotation])
		if hasDeadline(w.d) && condition(&w.d.Status, appsv1.DeploymentProgressing) == nil {
			w.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", set.Name))
		}
		return nil
	case !create:
		return nil
	}
	return r.create(ctx, w, next)
}

func (r *reconciler) create(ctx context.Context, w *rollout, next string) error {
	d := w.d
	set := newSet(d)
	set.Spec.Replicas = ptr.To(w.newSize())
	inherit(d, set, next)
	annotateSize(set, d)
	err := r.Client.Create(ctx, set)
	existed := apierrors.IsAlreadyExists(err)
	switch {
	case existed:
		var other appsv1.ReplicaSet
		if err := r.Client.Get(ctx, controller.Key(set), &other); err != nil {
			return err
		}
		if metav1.IsControlledBy(&other, d) && sameTemplate(&other.Spec.Template, &d.Spec.Template) {
			set = &other
			break
		}
		// Another template has the same hash: the next try takes another.
		d.Status.CollisionCount = ptr.To(ptr.Deref(d.Status.CollisionCount, 0) + 1)
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case err != nil:
		message := fmt.Sprintf("Failed to create new replica set %q: %v", set.Name, err)
		if hasDeadline(d) {
			w.setCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonCreateFailed, message)
		}
		r.events.Event(d, corev1.EventTypeWarning, reasonCreateFailed, message)
		return err
	}
	r.tracker.Created(controller.Key(d), set)
	if !existed && *set.Spec.Replicas > 0 {
		r.events.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", set.Name, *set.Spec.Replicas)
	}
	setRevision(d, next)
	if !existed && hasDeadline(d) {
		w.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", set.Name))
	}
	w.new = set
	return nil
}

func newSet(d *appsv1.Deployment) *appsv1.ReplicaSet {
	hash := pods.TemplateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := *d.Spec.Template.DeepCopy()
	template.Labels = with(template.Labels, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = with(selector.MatchLabels, hash)
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       d.Namespace,
			Name:            d.Name + "-" + hash,
			Labels:          template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, kind)},
		},
		Spec: appsv1.ReplicaSetSpec{MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: template},
	}
}

func with(labels map[string]string, hash string) map[string]string {
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return labels
}

// inherit copies the Deployment's annotations and gives the ReplicaSet the
// revision next unless it has a higher one; it reports whether set changed.
func inherit(d *appsv1.Deployment, set *appsv1.ReplicaSet, next string) bool {
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	changed := false
	for k, v := range d.Annotations {
		if old, ok := set.Annotations[k]; !own(k) && (!ok || old != v) {
			set.Annotations[k] = v
			changed = true
		}
	}
	before := set.Annotations[revisionAnnotation]
	if n, _ := strconv.ParseInt(next, 10, 64); revision(set) < n {
		set.Annotations[revisionAnnotation] = next
		changed = true
		if before != "" {
			set.Annotations[historyAnnotation] = appendHistory(set.Annotations[historyAnnotation], before)
		}
	}
	return changed
}

// appendHistory adds a revision that a ReplicaSet had before it was rolled back
// to, dropping the oldest ones if the list gets too long.
func appendHistory(history, revision string) string {
	if history == "" {
		return revision
	}
	history += "," + revision
	for len(history) > maxHistory {
		_, rest, ok := strings.Cut(history, ",")
		if !ok {
			return history
		}
		history = rest
	}
	return history
}

func setRevision(d *appsv1.Deployment, revision string) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[revisionAnnotation] = revision
}

// annotateSize notes for what size of the Deployment a ReplicaSet was scaled;
// it reports whether set changed.
func annotateSize(set *appsv1.ReplicaSet, d *appsv1.Deployment) bool {
	changed := false
	for k, n := range map[string]int32{desiredAnnotation: *d.Spec.Replicas, maxAnnotation: *d.Spec.Replicas + maxSurge(d)} {
		if v := strconv.Itoa(int(n)); set.Annotations[k] != v {
			if set.Annotations == nil {
				set.Annotations = map[string]string{}
			}
			set.Annotations[k] = v
			changed = true
		}
	}
	return changed
}

// scaleAll carries a plan out.
func (r *reconciler) scaleAll(ctx context.Context, w *rollout, plan []resize) error {
	for _, p := range plan {
		from := *p.set.Spec.Replicas
		set := p.set.DeepCopy()
		set.Spec.Replicas = ptr.To(p.to)
		if !annotateSize(set, w.d) && from == p.to {
			continue
		}
		if err := r.update(ctx, w, set); err != nil {
			return err
		}
		set.DeepCopyInto(p.set)
		if from != p.to {
			direction := "up"
			if p.to < from {
				direction = "down"
			}
			r.events.Eventf(w.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, set.Name, from, p.to)
		}
	}
	return nil
}

func (r *reconciler) update(ctx context.Context, w *rollout, set *appsv1.ReplicaSet) error {
	if err := r.Client.Update(ctx, set); err != nil {
		return crclient.IgnoreNotFound(err)
	}
	r.tracker.Wrote(controller.Key(w.d), set)
	return nil
}
