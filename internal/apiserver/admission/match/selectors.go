package match

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apiserver/admission"
)

// Namespaces finds a Namespace, which is shared. The error is NotFound if it
// does not exist.
type Namespaces func(ctx context.Context, name string) (*corev1.Namespace, error)

// Selectors select writes by labels.
type Selectors struct {
	namespace, object labels.Selector
	err               error
}

// NewSelectors reads selectors; nil ones select everything.
func NewSelectors(namespace, object *metav1.LabelSelector) Selectors {
	read := func(s *metav1.LabelSelector) (labels.Selector, error) {
		if s == nil {
			return labels.Everything(), nil
		}
		return metav1.LabelSelectorAsSelector(s)
	}
	n, err := read(namespace)
	if err != nil {
		return Selectors{err: err}
	}
	o, err := read(object)
	return Selectors{n, o, err}
}

// Match reports whether both selectors select the write.
func (s *Selectors) Match(ctx context.Context, a *admission.Attributes, namespaces Namespaces) (bool, error) {
	if s.err != nil {
		return false, apierrors.NewInternalError(s.err)
	}
	if !s.object.Empty() && !labelled(a.Object, s.object) && !labelled(a.Old, s.object) {
		return false, nil
	}
	if s.namespace.Empty() {
		return true, nil
	}
	name := a.RequestNamespace()
	if a.Is("", "namespaces", "") && a.Operation != admission.Delete {
		return labelled(a.Object, s.namespace), nil
	}
	if name == "" {
		// Selectors of namespaces do not exempt what is in none.
		return true, nil
	}
	ns, err := namespaces(ctx, name)
	if err != nil {
		return false, err
	}
	return s.namespace.Matches(labels.Set(ns.Labels)), nil
}

// labelled reports whether obj's labels are selected. Without an object nothing
// is.
func labelled(obj runtime.Object, s labels.Selector) bool {
	m, ok := obj.(metav1.Object)
	return ok && m != nil && s.Matches(labels.Set(m.GetLabels()))
}
