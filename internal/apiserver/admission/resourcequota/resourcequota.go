// Package resourcequota refuses what would exceed a quota of the namespace.
//
// Usage is counted in the quotas' status, and stored in one transaction with
// the object that uses: however many servers there are, usage never says less
// than is stored, and no more than fits is ever stored. What is deleted is
// taken off by the quota controller.
package resourcequota

import (
	"context"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apis/quota"
	"skiff/internal/apiserver/admission"
)

// Plugin implements admission.Accountant.
type Plugin struct {
	cache   client.Reader
	clock   clock.PassiveClock
	limited []Limited
	// locks let only one write of a namespace (and few others) of this server
	// be counted at a time, so that they do not make each other fail.
	locks [64]sync.Mutex
	seed  maphash.Seed
}

// New returns the plug-in; the cache must show what was committed here.
func New(cache client.Reader, c clock.PassiveClock, o Configuration) *Plugin {
	return &Plugin{cache: cache, clock: c, limited: o.LimitedResources, seed: maphash.MakeSeed()}
}

// Account implements admission.Accountant.
func (p *Plugin) Account(ctx context.Context, a *admission.Attributes) (entries []admission.Entry, done func(), err error) {
	nothing := func() {}
	if a.Namespace == "" || !counted(a) {
		return nil, nothing, nil
	}
	if quotas, err := p.quotas(ctx, a.Namespace); err != nil || len(quotas) == 0 && len(p.limited) == 0 {
		return nil, nothing, err
	}
	now := p.clock.Now()
	usage := quota.Usage(p.cache, a.Resource.GroupResource(), a.Object, now)
	delta := usage
	if a.Old != nil {
		delta = grown(usage, quota.Usage(p.cache, a.Resource.GroupResource(), a.Old, now))
	}
	lock := &p.locks[maphash.String(p.seed, a.Namespace)%uint64(len(p.locks))]
	lock.Lock()
	defer func() {
		if len(entries) == 0 {
			lock.Unlock()
		}
	}()
	quotas, err := p.quotas(ctx, a.Namespace)
	if err != nil {
		return nil, nil, err
	}
	if len(delta) > 0 {
		if err := p.covered(a, quotas, delta); err != nil {
			return nil, nil, err
		}
	}
	var charged []admission.Entry
	for i := range quotas {
		more := delta
		if a.Old != nil && !quota.InScope(&quotas[i], a.Old) {
			more = usage
		}
		used, err := check(a, &quotas[i], more)
		if err != nil {
			return nil, nil, err
		}
		if used == nil || a.DryRun {
			continue
		}
		changed := quotas[i].DeepCopy()
		changed.Status.Used = used
		charged = append(charged, admission.Entry{Resource: corev1.Resource("resourcequotas"), Object: changed})
	}
	if len(charged) == 0 {
		return nil, nothing, nil
	}
	return charged, lock.Unlock, nil
}

func (p *Plugin) quotas(ctx context.Context, namespace string) ([]corev1.ResourceQuota, error) {
	var list corev1.ResourceQuotaList
	err := p.cache.List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy)
	return list.Items, err
}

// counted reports whether the write can change usage.
func counted(a *admission.Attributes) bool {
	created, updated := a.Operation == admission.Create, a.Operation == admission.Update
	switch {
	case a.Is("", "pods", "resize"):
		return updated
	case a.Is("", "pods", ""):
		return created || updated && quota.Rescoped(a.Old, a.Object)
	case a.Is("", "persistentvolumeclaims", "status"):
		return updated && (quota.Rescoped(a.Old, a.Object) || !allocated(a.Old).Equal(*allocated(a.Object)))
	case a.Subresource != "", quota.Ignored(a.Resource.GroupResource()):
		return false
	case a.Is("", "services", ""), a.Is("", "persistentvolumeclaims", ""), a.Is(resourcev1.GroupName, "resourceclaims", ""):
		return created || updated
	}
	return created
}

// allocated is the storage that is set apart for a claim.
func allocated(claim runtime.Object) *resource.Quantity {
	q := claim.(*corev1.PersistentVolumeClaim).Status.AllocatedResources[corev1.ResourceStorage]
	return &q
}

// check returns the quota's new usage, nil if it is not concerned.
func check(a *admission.Attributes, q *corev1.ResourceQuota, delta corev1.ResourceList) (corev1.ResourceList, error) {
	if !quota.InScope(q, a.Object) {
		return nil, nil
	}
	requested := corev1.ResourceList{}
	for name, amount := range delta {
		if _, ok := q.Status.Hard[name]; ok {
			requested[name] = amount
		}
	}
	if pod, ok := a.Object.(*corev1.Pod); ok {
		if err := specifies(pod, q.Status.Hard); err != nil {
			return nil, a.Forbidden("failed quota: %s: %w", q.Name, err)
		}
	}
	if len(requested) == 0 {
		return nil, nil
	}
	var unknown, exceeded []string
	used := maps.Clone(q.Status.Used)
	for name, amount := range requested {
		sum, ok := used[name]
		if !ok {
			unknown = append(unknown, string(name))
			continue
		}
		sum.Add(amount)
		used[name] = sum
		// A status says what has happened already.
		if amount.Sign() > 0 && sum.Cmp(q.Status.Hard[name]) > 0 && a.Subresource != "status" {
			exceeded = append(exceeded, string(name))
		}
	}
	switch {
	case len(unknown) > 0:
		slices.Sort(unknown)
		return nil, a.Forbidden("status unknown for quota: %s, resources: %s", q.Name, strings.Join(unknown, ","))
	case len(exceeded) > 0:
		slices.Sort(exceeded)
		return nil, a.Forbidden("exceeded quota: %s, requested: %s, used: %s, limited: %s", q.Name,
			describe(requested, exceeded), describe(q.Status.Used, exceeded), describe(q.Status.Hard, exceeded))
	case equality.Semantic.DeepEqual(used, q.Status.Used):
		return nil, nil
	}
	return used, nil
}

func describe(l corev1.ResourceList, names []string) string {
	parts := make([]string, len(names))
	for i, name := range names {
		q := l[corev1.ResourceName(name)]
		parts[i] = name + "=" + q.String()
	}
	return strings.Join(parts, ",")
}

// grown returns what is more in now than in before.
func grown(now, before corev1.ResourceList) corev1.ResourceList {
	more := corev1.ResourceList{}
	for name, q := range now {
		q = q.DeepCopy()
		q.Sub(before[name])
		if q.Sign() > 0 {
			more[name] = q
		}
	}
	return more
}
