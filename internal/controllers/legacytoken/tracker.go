// Package legacytoken gets rid of tokens that nobody uses: those that were made
// for a ServiceAccount without being asked for, and never end by themselves
// (KEP-2799).
package legacytoken

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/apis/core"
	"skiff/internal/controllers/controller"
)

const (
	// trackingName names the ConfigMap that tells, under sinceKey, since when
	// the use of tokens is noted.
	trackingName = "kube-apiserver-legacy-service-account-token-tracking"
	sinceKey     = "since"
)

var tracking = types.NamespacedName{Namespace: metav1.NamespaceSystem, Name: trackingName}

// NewTracker makes the controller that keeps the ConfigMap.
func NewTracker(d controller.Deps) (controller.Runnable, error) {
	return controller.New(d, "legacytokentracker", 1, func(ctx context.Context, _ types.NamespacedName) (reconcile.Result, error) {
		return reconcile.Result{}, track(ctx, d)
	},
		controller.Once(),
		controller.Watch(d, &corev1.ConfigMap{}, func(q controller.Queue, old, m *corev1.ConfigMap) {
			if m == nil {
				m = old
			}
			if controller.Key(m) == tracking {
				controller.Add(q, "", "")
			}
		}))
}

func track(ctx context.Context, d controller.Deps) error {
	today := d.Clock.Now().UTC().Format(core.LegacyTokenDate)
	var m corev1.ConfigMap
	err := d.Cache.Get(ctx, tracking, &m, crclient.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		err := d.Client.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: tracking.Namespace, Name: tracking.Name}, Data: map[string]string{sinceKey: today},
		})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	}
	if err != nil {
		return err
	}
	if _, err := time.Parse(core.LegacyTokenDate, m.Data[sinceKey]); err == nil {
		return nil
	}
	next := m.DeepCopy()
	if next.Data = maps.Clone(m.Data); next.Data == nil {
		next.Data = map[string]string{}
	}
	next.Data[sinceKey] = today
	return crclient.IgnoreNotFound(d.Client.Update(ctx, next))
}
