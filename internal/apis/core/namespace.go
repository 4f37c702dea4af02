package core

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

// namespaces stay in phase Terminating after their deletion until nobody in
// spec.finalizers has work left; the namespace controller empties that list,
// through the subresource finalize, when the content is gone.
func namespaces() *apis.Resource {
	return apis.Of[*corev1.Namespace]{
		Names:   apis.Names{Resource: "namespaces", Singular: "namespace", Kind: "Namespace", ShortNames: []string{"ns"}},
		Version: "v1",
		Verbs:   []string{"create", "delete", "get", "list", "patch", "update", "watch"},
		New:     func() *corev1.Namespace { return &corev1.Namespace{} },
		NewList: func() runtime.Object { return &corev1.NamespaceList{} },

		MetadataOnUpdate: []apis.MetadataCheck{apis.AsNew, apis.AsChanged},
		Default:          defaultNamespace,
		PrepareCreate:    prepareNamespace,
		PrepareUpdate: func(_ context.Context, ns, old *corev1.Namespace) {
			ns.Spec.Finalizers = old.Spec.Finalizers
		},
		ValidateName: apivalidation.ValidateNamespaceName,
		Validate: func(_ context.Context, ns *corev1.Namespace) field.ErrorList {
			var p problems
			for _, f := range ns.Spec.Finalizers {
				p.finalizer(field.NewPath("spec", "finalizers"), string(f))
			}
			return p.list()
		},
		ValidateUpdate: func(context.Context, *corev1.Namespace, *corev1.Namespace) field.ErrorList { return nil },
		HasStatus:      true,
		Reset:          map[string][]string{"finalize": {"status"}},
		ValidateStatusUpdate: func(_ context.Context, ns, _ *corev1.Namespace) field.ErrorList {
			var p problems
			at := field.NewPath("status", "Phase")
			if ns.DeletionTimestamp.IsZero() && ns.Status.Phase != corev1.NamespaceActive {
				p.invalid(at, ns.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")
			}
			if !ns.DeletionTimestamp.IsZero() && ns.Status.Phase != corev1.NamespaceTerminating {
				p.invalid(at, ns.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")
			}
			return p.list()
		},
		BeforeDelete: func(ns *corev1.Namespace) bool {
			ns.Status.Phase = corev1.NamespaceTerminating
			return len(ns.Spec.Finalizers) > 0
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Status", "The status of the namespace"),
			columns.AgeColumn(),
		},
		Cells: func(ns *corev1.Namespace) []any {
			return []any{ns.Name, string(ns.Status.Phase), columns.Age(ns.CreationTimestamp)}
		},
		Fields: map[string]func(*corev1.Namespace) string{
			"status.phase": func(ns *corev1.Namespace) string { return string(ns.Status.Phase) },
		},
		Subresources: []apis.Subresource{{
			Name:  "finalize",
			New:   func() runtime.Object { return &corev1.Namespace{} },
			Verbs: []string{"update"},
			Prepare: func(_ context.Context, obj, old apis.Object) {
				obj.(*corev1.Namespace).Status = old.(*corev1.Namespace).Status
			},
			Validate: func(_ context.Context, obj, _ apis.Object) field.ErrorList {
				var p problems
				for i, f := range obj.(*corev1.Namespace).Spec.Finalizers {
					p.finalizer(field.NewPath("spec", "finalizers").Index(i), string(f))
				}
				return p.list()
			},
		}},
	}.Resource()
}

func defaultNamespace(ns *corev1.Namespace) {
	// A name that is yet to be generated is not known here: prepareNamespace
	// sees it.
	if ns.Name != "" {
		if ns.Labels == nil {
			ns.Labels = map[string]string{}
		}
		ns.Labels[corev1.LabelMetadataName] = ns.Name
	}
	if ns.Status.Phase == "" {
		ns.Status.Phase = corev1.NamespaceActive
	}
}

func prepareNamespace(_ context.Context, ns *corev1.Namespace) {
	ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
	defaultNamespace(ns)
}

// finalizer checks the name of a finalizer: fully qualified, or one of the few
// that are older than that rule.
func (p *problems) finalizer(at *field.Path, name string) {
	p.add(apivalidation.ValidateFinalizerName(name, at))
	standard := name == string(corev1.FinalizerKubernetes) || name == metav1.FinalizerOrphanDependents || name == metav1.FinalizerDeleteDependents
	if !strings.Contains(name, "/") && !standard {
		p.invalid(at, name, "name is neither a standard finalizer name nor is it fully qualified")
	}
}
