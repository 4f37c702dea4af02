// Package lifecycle keeps objects out of namespaces that do not exist or are
// going away, and keeps the system's namespaces.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/admission"
)

// Plugin implements admission.Mutator: it must refuse before others change
// anything.
type Plugin struct {
	// Cache is asked first, Live when it does not know the namespace: it may
	// have been made a moment ago.
	Cache, Live client.Reader
}

// Mutate implements admission.Mutator.
func (p *Plugin) Mutate(ctx context.Context, a *admission.Attributes) error {
	if a.Resource.Resource == "namespaces" && a.Resource.Group == "" {
		immortal := []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic}
		if a.Operation == admission.Delete && slices.Contains(immortal, a.Name) {
			return apierrors.NewForbidden(a.Resource.GroupResource(), a.Name, fmt.Errorf("this namespace may not be deleted"))
		}
		return nil
	}
	if a.Namespace == "" || a.Operation == admission.Delete || a.Is("authorization.k8s.io", "localsubjectaccessreviews", "") {
		return nil
	}
	namespace, err := p.get(ctx, a.Namespace)
	if err != nil {
		return err
	}
	if a.Operation != admission.Create || namespace.Status.Phase != corev1.NamespaceTerminating {
		return nil
	}
	var refusal *apierrors.StatusError
	errors.As(a.Forbidden("unable to create new content in namespace %s because it is being terminated", a.Namespace), &refusal)
	refusal.ErrStatus.Details.Causes = append(refusal.ErrStatus.Details.Causes, metav1.StatusCause{
		Type:    corev1.NamespaceTerminatingCause,
		Message: fmt.Sprintf("namespace %s is being terminated", a.Namespace),
		Field:   "metadata.namespace",
	})
	return refusal
}

func (p *Plugin) get(ctx context.Context, name string) (*corev1.Namespace, error) {
	namespace := &corev1.Namespace{}
	err := p.Cache.Get(ctx, client.ObjectKey{Name: name}, namespace, client.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		err = p.Live.Get(ctx, client.ObjectKey{Name: name}, namespace)
	}
	return namespace, err
}
