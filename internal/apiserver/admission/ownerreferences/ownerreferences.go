// Package ownerreferences lets only those set the owners of an object who could
// delete it, and only those hold up an owner's deletion who may change its
// finalizers (OwnerReferencesPermissionEnforcement).
package ownerreferences

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/authz"
)

// Plugin implements admission.Validator.
type Plugin struct {
	Authorizer authz.Authorizer
	// Mapper finds the resource of an owner's kind.
	Mapper meta.RESTMapper
}

// Validate implements admission.Validator.
func (p *Plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	if a.Operation != admission.Create && a.Operation != admission.Update || a.Is("", "pods", "status") {
		return nil
	}
	obj, ok := a.Object.(metav1.Object)
	if !ok {
		return nil
	}
	var before []metav1.OwnerReference
	if old, ok := a.Old.(metav1.Object); ok {
		before = old.GetOwnerReferences()
	}
	now := obj.GetOwnerReferences()
	if equality.Semantic.DeepEqual(before, now) {
		return nil
	}
	decision, reason, err := p.Authorizer.Authorize(ctx, &authz.Attributes{
		User: a.User, Verb: "delete", Namespace: a.Namespace, Group: a.Resource.Group, Version: a.RequestVersion().Version,
		Resource: a.Resource.Resource, Subresource: a.Subresource, Name: a.Name,
	})
	if decision != authz.Allow {
		return a.Forbidden("cannot set an ownerRef on a resource you can't delete: %s, %v", reason, err)
	}
	for _, ref := range now {
		if blocks(ref) && !slices.ContainsFunc(before, func(r metav1.OwnerReference) bool { return r.UID == ref.UID && blocks(r) }) {
			if err := p.mayBlock(ctx, a, ref); err != nil {
				return err
			}
		}
	}
	return nil
}

func blocks(r metav1.OwnerReference) bool {
	return r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
}

func (p *Plugin) mayBlock(ctx context.Context, a *admission.Attributes, ref metav1.OwnerReference) error {
	kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	mapping, err := p.Mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return a.Forbidden("cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion %s Kind %s: %v", ref.APIVersion, ref.Kind, err)
	}
	attributes := &authz.Attributes{
		User: a.User, Verb: "update", Group: kind.Group, Version: kind.Version, Resource: mapping.Resource.Resource, Subresource: "finalizers", Name: ref.Name,
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		// Owners are in the namespace of what they own.
		attributes.Namespace = a.Namespace
	}
	if decision, reason, err := p.Authorizer.Authorize(ctx, attributes); decision != authz.Allow {
		return a.Forbidden("cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: %s, %v", reason, fmt.Sprint(err))
	}
	return nil
}
