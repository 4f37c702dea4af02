// Package namespaces holds plug-ins about namespaces that are not there: one
// refuses requests in them, the other makes them (NamespaceExists,
// NamespaceAutoProvision).
package namespaces

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/admission"
)

// Exists refuses writes in namespaces that are not there.
type Exists struct{ Cache, Live client.Reader }

// Validate implements admission.Validator.
func (p *Exists) Validate(ctx context.Context, a *admission.Attributes) error {
	if a.Namespace == "" || a.Is("", "namespaces", "") {
		return nil
	}
	err := p.Cache.Get(ctx, client.ObjectKey{Name: a.Namespace}, &corev1.Namespace{}, client.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		err = p.Live.Get(ctx, client.ObjectKey{Name: a.Namespace}, &corev1.Namespace{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return apierrors.NewInternalError(err)
	}
	return err
}

// AutoProvision makes the namespaces that objects are created in.
type AutoProvision struct {
	Cache client.Reader
	Live  client.Client
}

// Mutate implements admission.Mutator.
func (p *AutoProvision) Mutate(ctx context.Context, a *admission.Attributes) error {
	if a.Operation != admission.Create || a.Namespace == "" || a.Resource.Group == "" && a.Resource.Resource == "namespaces" || a.DryRun {
		return nil
	}
	if p.Cache.Get(ctx, client.ObjectKey{Name: a.Namespace}, &corev1.Namespace{}, client.UnsafeDisableDeepCopy) == nil {
		return nil
	}
	err := p.Live.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: a.Namespace}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return a.Forbidden("%w", err)
	}
	return nil
}
