package deployment

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// rollout is a Deployment and its ReplicaSets at one moment. Its methods decide
// and calculate; they change nothing but d and the objects they are told of.
type rollout struct {
	d   *appsv1.Deployment
	new *appsv1.ReplicaSet   // the one with d's template; nil until it is made
	old []*appsv1.ReplicaSet // all others, the oldest first
	now time.Time
}

// resize asks for a ReplicaSet to have a number of replicas.
type resize struct {
	set *appsv1.ReplicaSet
	to  int32
}

// split finds the new ReplicaSet among all: the oldest with d's template.
func (w *rollout) split(all []*appsv1.ReplicaSet) {
	w.new, w.old = nil, nil
	slices.SortFunc(all, byAge)
	for _, s := range all {
		if w.new == nil && sameTemplate(&s.Spec.Template, &w.d.Spec.Template) {
			w.new = s
		} else {
			w.old = append(w.old, s)
		}
	}
}

func (w *rollout) all() []*appsv1.ReplicaSet {
	if w.new == nil {
		return w.old
	}
	return append(slices.Clone(w.old), w.new)
}

func (w *rollout) active() []*appsv1.ReplicaSet { return withReplicas(w.all()) }

// sizes sums up the replicas asked for, separately for new and old.
func (w *rollout) sizes() [2]int32 {
	var s [2]int32
	s[0] = replicas(w.old)
	if w.new != nil {
		s[1] = *w.new.Spec.Replicas
	}
	return s
}

// sameTemplate compares templates without the label that tells revisions apart.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	delete(a.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(b.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return apiequality.Semantic.DeepEqual(a, b)
}

// resized reports whether the number of replicas that d asks for is another
// than when the active ReplicaSets were last scaled.
func (w *rollout) resized() bool {
	for _, s := range w.active() {
		if desired, ok := number(s, desiredAnnotation); ok && desired != *w.d.Spec.Replicas {
			return true
		}
	}
	return false
}

// resize spreads a changed number of replicas over the ReplicaSets, without
// going on with a rollout.
func (w *rollout) resize() []resize {
	want := *w.d.Spec.Replicas
	active := w.active()
	if only := w.activeOrLatest(active); only != nil {
		if *only.Spec.Replicas == want {
			return nil
		}
		return []resize{{only, want}}
	}
	if len(active) == 0 {
		return nil
	}
	if w.new != nil {
		desired, ok := number(w.new, desiredAnnotation)
		if ok && desired == want && *w.new.Spec.Replicas == want && w.new.Status.AvailableReplicas == want {
			return w.oldToZero()
		}
	}
	if w.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return nil
	}
	return w.proportional(active)
}

func (w *rollout) activeOrLatest(active []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	switch {
	case len(active) == 1:
		return active[0]
	case len(active) > 1:
		return nil
	case w.new != nil:
		return w.new
	case len(w.old) > 0:
		return w.old[len(w.old)-1]
	}
	return nil
}

// proportional gives every ReplicaSet its share of what is added or taken away
// (Deployment documentation, "Proportional scaling"); what rounding leaves over
// goes to the largest.
func (w *rollout) proportional(active []*appsv1.ReplicaSet) []resize {
	var allowed int32
	if *w.d.Spec.Replicas > 0 {
		allowed = *w.d.Spec.Replicas + maxSurge(w.d)
	}
	toAdd := allowed - replicas(active)
	slices.SortFunc(active, func(a, b *appsv1.ReplicaSet) int {
		age := byAge(a, b)
		if toAdd > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas), age)
	})
	plan := make([]resize, len(active))
	var added int32
	for i, s := range active {
		share := w.share(s, toAdd, added)
		added += share
		plan[i] = resize{s, *s.Spec.Replicas + share}
	}
	plan[0].to = max(0, plan[0].to+toAdd-added)
	return plan
}

func (w *rollout) share(s *appsv1.ReplicaSet, toAdd, added int32) int32 {
	if toAdd == 0 || toAdd == added {
		return 0
	}
	fraction := -*s.Spec.Replicas
	if *w.d.Spec.Replicas != 0 {
		before, ok := number(s, maxAnnotation)
		if !ok || before == 0 {
			before = w.d.Status.Replicas
		}
		if before == 0 {
			return 0
		}
		size := float64(*s.Spec.Replicas) * float64(*w.d.Spec.Replicas+maxSurge(w.d)) / float64(before)
		fraction = int32(math.Round(size)) - *s.Spec.Replicas
	}
	if toAdd > 0 {
		return min(fraction, toAdd-added)
	}
	return max(fraction, toAdd-added)
}

// oldToZero scales all old ReplicaSets down.
func (w *rollout) oldToZero() []resize {
	var plan []resize
	for _, s := range withReplicas(w.old) {
		plan = append(plan, resize{s, 0})
	}
	return plan
}

// rollingStep is the next step of a rolling update: first the new ReplicaSet
// grows as far as maxSurge lets it, and only when it cannot, old ones shrink as
// far as maxUnavailable lets them.
func (w *rollout) rollingStep() []resize {
	want := *w.d.Spec.Replicas
	if have := *w.new.Spec.Replicas; have > want {
		return []resize{{w.new, want}}
	} else if have < want {
		if to := w.newSize(); to != have {
			return []resize{{w.new, to}}
		}
	}
	old := withReplicas(w.old)
	if len(old) == 0 {
		return nil
	}
	minAvailable := want - maxUnavailable(w.d)
	spare := replicas(w.all()) - minAvailable - (*w.new.Spec.Replicas - available(w.new))
	if spare <= 0 {
		return nil
	}
	size := map[*appsv1.ReplicaSet]int32{}
	total := available(w.new)
	// Pods that do not work go first: nobody misses them.
	for _, s := range old {
		size[s] = *s.Spec.Replicas
		total += available(s)
		broken := max(0, min(spare, size[s]-available(s)))
		size[s] -= broken
		spare -= broken
	}
	surplus := total - minAvailable
	for _, s := range old {
		down := max(0, min(size[s], surplus))
		size[s] -= down
		surplus -= down
	}
	var plan []resize
	for _, s := range old {
		if size[s] != *s.Spec.Replicas {
			plan = append(plan, resize{s, size[s]})
		}
	}
	return plan
}

// available is how many available pods s has, without those that it is about
// to remove and still counts.
func available(s *appsv1.ReplicaSet) int32 { return min(s.Status.AvailableReplicas, *s.Spec.Replicas) }

// newSize is the size that the new ReplicaSet may have now.
func (w *rollout) newSize() int32 {
	want := *w.d.Spec.Replicas
	if w.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return want
	}
	var have int32
	if w.new != nil {
		have = *w.new.Spec.Replicas
	}
	room := want + maxSurge(w.d)
	for _, s := range w.all() {
		// Pods that are too many are there until they are removed.
		room -= max(*s.Spec.Replicas, s.Status.Replicas)
	}
	return have + max(0, min(room, want-have))
}

// beyondLimit are the ReplicaSets that revisionHistoryLimit leaves no room for.
func (w *rollout) beyondLimit() []*appsv1.ReplicaSet {
	limit := w.d.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return nil
	}
	var kept []*appsv1.ReplicaSet
	for _, s := range w.old {
		if s.DeletionTimestamp == nil {
			kept = append(kept, s)
		}
	}
	slices.SortStableFunc(kept, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revision(a), revision(b)) })
	var drop []*appsv1.ReplicaSet
	for i := range len(kept) - int(*limit) {
		s := kept[i]
		if s.Status.Replicas == 0 && *s.Spec.Replicas == 0 && s.Generation <= s.Status.ObservedGeneration {
			drop = append(drop, s)
		}
	}
	return drop
}

func byAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

func withReplicas(all []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	var some []*appsv1.ReplicaSet
	for _, s := range all {
		if *s.Spec.Replicas > 0 {
			some = append(some, s)
		}
	}
	return some
}

func replicas(all []*appsv1.ReplicaSet) int32 {
	var n int32
	for _, s := range all {
		n += *s.Spec.Replicas
	}
	return n
}

func number(s *appsv1.ReplicaSet, annotation string) (int32, bool) {
	n, err := strconv.ParseInt(s.Annotations[annotation], 10, 32)
	return int32(n), err == nil
}

func maxSurge(d *appsv1.Deployment) int32 {
	surge, _ := limits(d)
	return surge
}

func maxUnavailable(d *appsv1.Deployment) int32 {
	_, unavailable := limits(d)
	return min(unavailable, *d.Spec.Replicas)
}

// limits resolves percentages: surge rounds up, unavailable down, and if both
// come out as 0 one pod may be unavailable, or nothing could ever move.
func limits(d *appsv1.Deployment) (surge, unavailable int32) {
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || d.Spec.Strategy.RollingUpdate == nil {
		return 0, 0
	}
	u := d.Spec.Strategy.RollingUpdate
	total := int(*d.Spec.Replicas)
	none := intstr.FromInt32(0)
	s, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(u.MaxSurge, none), total, true)
	if err != nil {
		return 0, 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(u.MaxUnavailable, none), total, false)
	if err != nil {
		return 0, 0
	}
	if s == 0 && n == 0 {
		n = 1
	}
	return int32(s), int32(n)
}
