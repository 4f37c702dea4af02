package authorization

import (
	"context"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apiserver/authz"
)

func localSubjectAccessReview(authorizer authz.Authorizer) *apis.Resource {
	return apis.Of[*authorizationv1.LocalSubjectAccessReview]{
		Names: apis.Names{
			Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews", Singular: "localsubjectaccessreview", Kind: "LocalSubjectAccessReview",
			Namespaced: true,
		},
		Version: "v1",
		New:     func() *authorizationv1.LocalSubjectAccessReview { return &authorizationv1.LocalSubjectAccessReview{} },
		Virtual: &apis.Virtual{
			Create: func(ctx context.Context, _ apis.Storage, namespace string, obj apis.Object, _ bool) (runtime.Object, error) {
				return reviewLocalSubject(ctx, authorizer, namespace, obj.(*authorizationv1.LocalSubjectAccessReview))
			},
		},
	}.Resource()
}

func reviewLocalSubject(ctx context.Context, authorizer authz.Authorizer, namespace string, in *authorizationv1.LocalSubjectAccessReview) (runtime.Object, error) {
	if errs := validateLocalSubject(in); len(errs) > 0 {
		return nil, invalid(errs)
	}
	if namespace == "" {
		return nil, apierrors.NewBadRequest("namespace is required on this type: ")
	}
	if namespace != in.Namespace {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("spec.resourceAttributes.namespace must match namespace: %v", namespace))
	}
	status, err := ask(ctx, authorizer, questionOf(&in.Spec))
	if err != nil {
		return nil, err
	}
	out := in.DeepCopy()
	out.Status = status
	return out, nil
}

func validateLocalSubject(in *authorizationv1.LocalSubjectAccessReview) field.ErrorList {
	errs := append(validateSubject(&in.Spec), validateMeta(in.ObjectMeta, true)...)
	spec := field.NewPath("spec")
	if r := in.Spec.ResourceAttributes; r != nil && r.Namespace != in.Namespace {
		errs = append(errs, field.Invalid(spec.Child("resourceAttributes", "namespace"), r.Namespace, "must match metadata.namespace"))
	}
	if n := in.Spec.NonResourceAttributes; n != nil {
		errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), n, "disallowed on this kind of request"))
	}
	return errs
}
