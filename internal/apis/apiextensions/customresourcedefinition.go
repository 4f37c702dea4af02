package apiextensions

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
)

func customResourceDefinition() *apis.Resource {
	return apis.Of[*apiextensionsv1.CustomResourceDefinition]{
		Names: apis.Names{
			Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions", Singular: "customresourcedefinition", Kind: "CustomResourceDefinition",
			ShortNames: []string{"crd", "crds"},
			Categories: []string{"api-extensions"},
		},
		Version:                "v1",
		New:                    func() *apiextensionsv1.CustomResourceDefinition { return &apiextensionsv1.CustomResourceDefinition{} },
		NewList:                func() runtime.Object { return &apiextensionsv1.CustomResourceDefinitionList{} },
		Prefix:                 "/registry/apiextensions.k8s.io/customresourcedefinitions",
		HasStatus:              true,
		Generation:             true,
		RequireResourceVersion: true,
		Default:                apiextensionsv1.SetObjectDefaults_CustomResourceDefinition,
		PrepareCreate:          func(_ context.Context, d *apiextensionsv1.CustomResourceDefinition) { noteStorageVersion(d) },
		PrepareUpdate:          func(_ context.Context, d, _ *apiextensionsv1.CustomResourceDefinition) { noteStorageVersion(d) },
		Validate:               validateDefinition,
		ValidateUpdate:         validateDefinitionUpdate,
		ValidateStatusUpdate:   validateDefinitionStatus,
	}.Resource()
}

// noteStorageVersion keeps the list of versions that objects may be stored in
// complete; only the status subresource takes from it.
func noteStorageVersion(d *apiextensionsv1.CustomResourceDefinition) {
	for i := range d.Spec.Versions {
		if v := &d.Spec.Versions[i]; v.Storage && !slices.Contains(d.Status.StoredVersions, v.Name) {
			// Never in place: the list may be the old object's.
			d.Status.StoredVersions = append(slices.Clone(d.Status.StoredVersions), v.Name)
		}
	}
}

func validateDefinition(_ context.Context, d *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	var errs field.ErrorList
	s, path := &d.Spec, field.NewPath("spec")
	if want := s.Names.Plural + "." + s.Group; d.Name != want {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), d.Name, "must be spec.names.plural+\".\"+spec.group"))
	}
	errs = append(errs, checks.RequiredName(s.Group, path.Child("group"), utilvalidation.IsDNS1123Subdomain)...)
	if s.Group != "" && !strings.Contains(s.Group, ".") {
		errs = append(errs, field.Invalid(path.Child("group"), s.Group, "should be a domain with at least one dot"))
	}
	errs = append(errs, checks.Enum(s.Scope, path.Child("scope"), apiextensionsv1.ClusterScoped, apiextensionsv1.NamespaceScoped)...)
	if s.PreserveUnknownFields {
		errs = append(errs, field.Invalid(path.Child("preserveUnknownFields"), true, "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"))
	}
	errs = append(errs, validateVersions(s.Versions, path.Child("versions"))...)
	errs = append(errs, validateNames(&s.Names, path.Child("names"))...)
	errs = append(errs, validateConversion(s.Conversion, path.Child("conversion"))...)
	return append(errs, validateStoredVersions(d)...)
}

func validateDefinitionUpdate(ctx context.Context, d, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	errs := validateDefinition(ctx, d)
	path := field.NewPath("spec")
	errs = append(errs, validation.ValidateImmutableField(d.Spec.Group, old.Spec.Group, path.Child("group"))...)
	errs = append(errs, validation.ValidateImmutableField(d.Spec.Names.Plural, old.Spec.Names.Plural, path.Child("names", "plural"))...)
	if isEstablished(old) {
		errs = append(errs, validation.ValidateImmutableField(d.Spec.Scope, old.Spec.Scope, path.Child("scope"))...)
		errs = append(errs, validation.ValidateImmutableField(d.Spec.Names.Kind, old.Spec.Names.Kind, path.Child("names", "kind"))...)
	}
	return errs
}

func isEstablished(d *apiextensionsv1.CustomResourceDefinition) bool {
	for _, c := range d.Status.Conditions {
		if c.Type == apiextensionsv1.Established {
			return c.Status == apiextensionsv1.ConditionTrue
		}
	}
	return false
}

func validateDefinitionStatus(_ context.Context, d, _ *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	return validateStoredVersions(d)
}

// validateStoredVersions demands that stored objects stay readable.
func validateStoredVersions(d *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	path := field.NewPath("status", "storedVersions")
	if len(d.Status.StoredVersions) == 0 {
		return field.ErrorList{field.Invalid(path, d.Status.StoredVersions, "must have at least one stored version")}
	}
	var errs field.ErrorList
	known := sets.New[string]()
	for i := range d.Spec.Versions {
		v := &d.Spec.Versions[i]
		known.Insert(v.Name)
		if v.Storage && !slices.Contains(d.Status.StoredVersions, v.Name) {
			errs = append(errs, field.Invalid(path, d.Status.StoredVersions, fmt.Sprintf("must have the storage version %s", v.Name)))
		}
	}
	for i, name := range d.Status.StoredVersions {
		if !known.Has(name) {
			errs = append(errs, field.Invalid(path.Index(i), name, "missing from spec.versions; "+name+" was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in "+name+" and removes "+name+" from status.storedVersions"))
		}
	}
	return errs
}
