// Package resourcequota refuses what would exceed a quota of the namespace.
//
// Usage is counted in the quotas' status: a write is let through once its share
// is added there by compare-and-swap, so that several servers together never
// let through more than fits. What is deleted, or refused after all, is taken
// off by the quota controller.
package resourcequota

import (
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/admission"
)

// attempts is how often a quota that others change is tried again.
const attempts = 8

// Plugin implements admission.Validator.
type Plugin struct {
	cache client.Reader
	live  client.Client
	// locks let only one write of a namespace (and few others) of this server
	// be counted at a time, so that they do not make each other fail.
	locks [64]sync.Mutex
	seed  maphash.Seed
}

// New returns the plug-in. It must stand last, so that what is counted is not
// refused by others.
func New(cache client.Reader, live client.Client) *Plugin {
	return &Plugin{cache: cache, live: live, seed: maphash.MakeSeed()}
}

// Validate implements admission.Validator.
func (p *Plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	if a.Namespace == "" || !counted(a) {
		return nil
	}
	var list corev1.ResourceQuotaList
	if err := p.cache.List(ctx, &list, client.InNamespace(a.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	if len(list.Items) == 0 {
		return nil
	}
	delta := usageOf(a.Resource.GroupResource(), a.Object)
	if a.Old != nil {
		delta = grown(delta, usageOf(a.Resource.GroupResource(), a.Old))
	}
	lock := &p.locks[maphash.String(p.seed, a.Namespace)%uint64(len(p.locks))]
	lock.Lock()
	defer lock.Unlock()
	for i := range list.Items {
		if err := p.charge(ctx, a, &list.Items[i], delta); err != nil {
			return err
		}
	}
	return nil
}

// charge adds delta to one quota, or refuses.
func (p *Plugin) charge(ctx context.Context, a *admission.Attributes, quota *corev1.ResourceQuota, delta corev1.ResourceList) error {
	for range attempts {
		used, err := check(a, quota, delta)
		if err != nil || used == nil || a.DryRun {
			return err
		}
		changed := quota.DeepCopy()
		changed.Status.Used = used
		err = p.live.Status().Update(ctx, changed)
		if !apierrors.IsConflict(err) {
			return client.IgnoreNotFound(err)
		}
		fresh := &corev1.ResourceQuota{}
		if err := p.live.Get(ctx, client.ObjectKeyFromObject(quota), fresh); err != nil {
			return client.IgnoreNotFound(err)
		}
		quota = fresh
	}
	return apierrors.NewConflict(corev1.Resource("resourcequotas"), quota.Name, fmt.Errorf("the quota's usage is changing too fast, try again"))
}

// check returns the quota's new usage, nil if it is not concerned.
func check(a *admission.Attributes, quota *corev1.ResourceQuota, delta corev1.ResourceList) (corev1.ResourceList, error) {
	if !inScope(quota, a.Object) {
		return nil, nil
	}
	requested := corev1.ResourceList{}
	for name, q := range delta {
		if _, ok := quota.Status.Hard[name]; ok {
			requested[name] = q
		}
	}
	if pod, ok := a.Object.(*corev1.Pod); ok && a.Operation == admission.Create {
		if err := specifies(pod, quota.Status.Hard); err != nil {
			return nil, a.Forbidden("failed quota: %s: %w", quota.Name, err)
		}
	}
	if len(requested) == 0 {
		return nil, nil
	}
	var unknown, exceeded []string
	used := maps.Clone(quota.Status.Used)
	for name, q := range requested {
		sum, ok := used[name]
		if !ok {
			unknown = append(unknown, string(name))
			continue
		}
		sum.Add(q)
		used[name] = sum
		if q.Sign() > 0 && sum.Cmp(quota.Status.Hard[name]) > 0 {
			exceeded = append(exceeded, string(name))
		}
	}
	switch {
	case len(unknown) > 0:
		slices.Sort(unknown)
		return nil, a.Forbidden("status unknown for quota: %s, resources: %s", quota.Name, strings.Join(unknown, ","))
	case len(exceeded) > 0:
		slices.Sort(exceeded)
		return nil, a.Forbidden("exceeded quota: %s, requested: %s, used: %s, limited: %s", quota.Name,
			describe(requested, exceeded), describe(quota.Status.Used, exceeded), describe(quota.Status.Hard, exceeded))
	case equality.Semantic.DeepEqual(used, quota.Status.Used):
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
