package apiextensions

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	apiservervalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/internal/apis"
)

type definition = apiextensionsv1.CustomResourceDefinition

func customResourceDefinition() *apis.Resource {
	return apis.Of[*definition]{
		Names: apis.Names{
			Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions", Singular: "customresourcedefinition", Kind: "CustomResourceDefinition",
			ShortNames: []string{"crd", "crds"},
			Categories: []string{"api-extensions"},
		},
		Version:                "v1",
		New:                    func() *definition { return &definition{} },
		NewList:                func() runtime.Object { return &apiextensionsv1.CustomResourceDefinitionList{} },
		Prefix:                 "/registry/apiextensions.k8s.io/customresourcedefinitions",
		HasStatus:              true,
		Generation:             true,
		RequireResourceVersion: true,
		Large:                  true,
		Default:                apiextensionsv1.SetObjectDefaults_CustomResourceDefinition,
		PrepareCreate:          func(_ context.Context, d *definition) { noteStorageVersion(d) },
		PrepareUpdate:          func(_ context.Context, d, _ *definition) { noteStorageVersion(d) },
		ValidateName:           func(string, bool) []string { return nil }, // the group and plural make the name
		Validate:               validateDefinition,
		ValidateUpdate:         validateDefinitionUpdate,
		ValidateStatusUpdate:   validateDefinitionStatus,
		Warnings:               formatWarnings,
		BeforeDelete:           awaitCleanup,
	}.Resource()
}

// noteStorageVersion keeps the list of versions that objects may be stored in
// complete; only the status subresource takes from it. Of several storage
// versions, which validation refuses, the first counts.
func noteStorageVersion(d *definition) {
	i := slices.IndexFunc(d.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool { return v.Storage })
	if i < 0 || slices.Contains(d.Status.StoredVersions, d.Spec.Versions[i].Name) {
		return
	}
	// Never in place: the list may be the old object's.
	d.Status.StoredVersions = append(slices.Clone(d.Status.StoredVersions), d.Spec.Versions[i].Name)
}

// awaitCleanup makes a definition whose deletion begins wait until its objects
// are gone: whoever removes them takes the finalizer away.
func awaitCleanup(d *definition) (keep bool) {
	for i := range d.Status.Conditions {
		if d.Status.Conditions[i].Type == apiextensionsv1.Terminating {
			return false
		}
	}
	if !slices.Contains(d.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) {
		d.Finalizers = append(slices.Clone(d.Finalizers), apiextensionsv1.CustomResourceCleanupFinalizer)
	}
	d.Status.Conditions = append(slices.Clone(d.Status.Conditions), apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, LastTransitionTime: metav1.Now(),
		Reason: "InstanceDeletionPending", Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	})
	return true
}

// hub returns d in the form that the validation library works on.
func hub(d *definition) (*apiextensions.CustomResourceDefinition, field.ErrorList) {
	out := &apiextensions.CustomResourceDefinition{}
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(d.DeepCopy(), out, nil); err != nil {
		return nil, field.ErrorList{field.InternalError(nil, err)}
	}
	return out, nil
}

func hubs(d, old *definition) (in, was *apiextensions.CustomResourceDefinition, errs field.ErrorList) {
	if in, errs = hub(d); errs == nil {
		was, errs = hub(old)
	}
	return in, was, errs
}

func validateDefinition(ctx context.Context, d *definition) field.ErrorList {
	in, errs := hub(d)
	if errs != nil {
		return errs
	}
	return withoutMetadata(validation.ValidateCustomResourceDefinition(ctx, in))
}

func validateDefinitionUpdate(ctx context.Context, d, old *definition) field.ErrorList {
	in, was, errs := hubs(d, old)
	if errs != nil {
		return errs
	}
	return withoutMetadata(validation.ValidateCustomResourceDefinitionUpdate(ctx, in, was))
}

func validateDefinitionStatus(_ context.Context, d, old *definition) field.ErrorList {
	in, was, errs := hubs(d, old)
	if errs != nil {
		return errs
	}
	return withoutMetadata(validation.ValidateUpdateCustomResourceDefinitionStatus(in, was))
}

// withoutMetadata drops what is wrong with the metadata of any object, which
// is checked for all resources alike.
func withoutMetadata(errs field.ErrorList) field.ErrorList {
	return slices.DeleteFunc(errs, func(e *field.Error) bool {
		named := e.Field == "metadata.name" && e.Type != field.ErrorTypeRequired
		return strings.HasPrefix(e.Field, "metadata.") && !named && !strings.HasPrefix(e.Field, "metadata.annotations[")
	})
}

// formatWarnings names the formats in schemas that nothing checks, unless the
// old definition had them.
func formatWarnings(_ context.Context, d, old *definition) []string {
	known := unknownFormats(old)
	var out []string
	for _, format := range unknownFormats(d) {
		if !slices.Contains(known, format) {
			out = append(out, fmt.Sprintf("unrecognized format %q", format))
		}
	}
	return out
}

func unknownFormats(d *definition) []string {
	if d == nil {
		return nil
	}
	in, errs := hub(d)
	if errs != nil {
		return nil
	}
	var out []string
	schema := func(v *apiextensions.CustomResourceValidation) {
		if v == nil || v.OpenAPIV3Schema == nil {
			return
		}
		converted := &spec.Schema{}
		if err := apiservervalidation.ConvertJSONSchemaPropsWithPostProcess(v.OpenAPIV3Schema, converted, func(s *spec.Schema) error {
			out = append(out, apiservervalidation.GetUnrecognizedFormats(s, environment.DefaultCompatibilityVersion())...)
			return nil
		}); err != nil {
			return
		}
	}
	schema(in.Spec.Validation)
	for i := range in.Spec.Versions {
		schema(in.Spec.Versions[i].Schema)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
