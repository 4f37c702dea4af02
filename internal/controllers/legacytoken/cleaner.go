package legacytoken

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/apis/core"
	"skiff/internal/apis/podrefs"
	"skiff/internal/controllers/controller"
)

const (
	// unused is how long a token must not have been used before it is marked
	// invalid, and then how long it stays so before it is removed.
	unused = 365 * 24 * time.Hour
	period = 24 * time.Hour
)

type cleaner struct{ controller.Deps }

// NewCleaner makes the controller that marks and removes tokens.
func NewCleaner(d controller.Deps) (controller.Runnable, error) {
	c := cleaner{d}
	return controller.New(d, "legacytokencleaner", 1, func(ctx context.Context, _ types.NamespacedName) (reconcile.Result, error) {
		return reconcile.Result{}, c.clean(ctx)
	}, controller.Tick(d, period))
}

func (c cleaner) clean(ctx context.Context) error {
	now := c.Clock.Now().UTC()
	since, err := c.trackedSince(ctx)
	if err != nil || now.Before(since.Add(unused)) {
		return crclient.IgnoreNotFound(err)
	}
	var secrets corev1.SecretList
	if err := c.Cache.List(ctx, &secrets, crclient.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	mounted := map[string]map[string]bool{}
	for i := range secrets.Items {
		s := &secrets.Items[i]
		if !outOfUse(s, now.Add(-unused)) {
			continue
		}
		generated, err := c.generated(ctx, s)
		if err != nil {
			return err
		}
		if !generated {
			continue
		}
		names, ok := mounted[s.Namespace]
		if !ok {
			if names, err = c.mounted(ctx, s.Namespace); err != nil {
				return err
			}
			mounted[s.Namespace] = names
		}
		if names[s.Name] {
			continue
		}
		if err := c.retire(ctx, s, now); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// trackedSince returns the first day of which every use is known.
func (c cleaner) trackedSince(ctx context.Context) (time.Time, error) {
	var m corev1.ConfigMap
	if err := c.Client.Get(ctx, tracking, &m); err != nil {
		return time.Time{}, err
	}
	since, err := time.Parse(core.LegacyTokenDate, m.Data[sinceKey])
	if err != nil {
		return time.Time{}, fmt.Errorf("since when the use of tokens is noted, in ConfigMap %s: %w", tracking, err)
	}
	return since.AddDate(0, 0, 1), nil
}

// outOfUse reports whether the secret is a token that was neither made nor
// used since then. One whose last use cannot be read counts as used.
func outOfUse(s *corev1.Secret, then time.Time) bool {
	if s.Type != corev1.SecretTypeServiceAccountToken || s.DeletionTimestamp != nil || !s.CreationTimestamp.Time.Before(then) {
		return false
	}
	used, ok := s.Labels[core.LegacyTokenLastUsed]
	return !ok || before(used, then)
}

// before reports whether the label's day is before that of then.
func before(label string, then time.Time) bool {
	day, err := time.Parse(core.LegacyTokenDate, label)
	return err == nil && day.Before(then.Truncate(24*time.Hour))
}

// generated reports whether the token was made without being asked for: then
// its account lists it.
func (c cleaner) generated(ctx context.Context, s *corev1.Secret) (bool, error) {
	name, uid := s.Annotations[corev1.ServiceAccountNameKey], s.Annotations[corev1.ServiceAccountUIDKey]
	if name == "" {
		return false, nil
	}
	var account corev1.ServiceAccount
	err := c.Cache.Get(ctx, types.NamespacedName{Namespace: s.Namespace, Name: name}, &account, crclient.UnsafeDisableDeepCopy)
	if err != nil || uid != "" && uid != string(account.UID) {
		return false, crclient.IgnoreNotFound(err)
	}
	return slices.ContainsFunc(account.Secrets, func(r corev1.ObjectReference) bool { return r.Name == s.Name }), nil
}

// mounted returns the secrets that pods of the namespace name.
func (c cleaner) mounted(ctx context.Context, namespace string) (map[string]bool, error) {
	var pods corev1.PodList
	if err := c.Cache.List(ctx, &pods, crclient.InNamespace(namespace), crclient.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for i := range pods.Items {
		for kind, name := range podrefs.Of(&pods.Items[i]) {
			if kind == podrefs.Secret {
				names[name] = true
			}
		}
	}
	return names, nil
}

// retire marks the token as invalid, and removes it when it has been so for
// long enough.
func (c cleaner) retire(ctx context.Context, s *corev1.Secret, now time.Time) error {
	invalid := s.Labels[core.LegacyTokenInvalidSince]
	if _, err := time.Parse(core.LegacyTokenDate, invalid); err != nil {
		c.Log.Info("a token that nobody uses is invalid from now on", "secret", controller.Key(s))
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": s.UID, "labels": map[string]string{core.LegacyTokenInvalidSince: now.Format(core.LegacyTokenDate)},
		}})
		if err != nil {
			return err
		}
		return c.Client.Patch(ctx, s.DeepCopy(), crclient.RawPatch(types.MergePatchType, patch))
	}
	if !before(invalid, now.Add(-unused)) {
		return nil
	}
	c.Log.Info("removing a token that nobody uses", "secret", controller.Key(s), "invalidSince", invalid)
	return c.Client.Delete(ctx, s.DeepCopy(), crclient.Preconditions{ResourceVersion: &s.ResourceVersion})
}
