package apps

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
)

func controllerRevision() *apis.Resource {
	docs := appsv1.ControllerRevision{}.SwaggerDoc()
	return apis.Of[*appsv1.ControllerRevision]{
		Names: apis.Names{
			Group: "apps", Resource: "controllerrevisions", Singular: "controllerrevision", Kind: "ControllerRevision",
			Namespaced: true,
		},
		Version:          "v1",
		New:              func() *appsv1.ControllerRevision { return &appsv1.ControllerRevision{} },
		NewList:          func() runtime.Object { return &appsv1.ControllerRevisionList{} },
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsChanged, apis.AsNew},
		Validate:         validateControllerRevision,
		ValidateUpdate:   validateControllerRevisionUpdate,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Controller", "Controller of the object"),
			columns.String("Revision", docs["revision"]),
			columns.AgeColumn(),
		},
		Cells: func(r *appsv1.ControllerRevision) []any {
			return []any{r.Name, controllerName(r), r.Revision, columns.Age(r.CreationTimestamp)}
		},
	}.Resource()
}

// controllerName returns the owner as kubectl takes it, e.g. statefulset.apps/web.
func controllerName(r *appsv1.ControllerRevision) string {
	owner := metav1.GetControllerOf(r)
	if owner == nil {
		return columns.None
	}
	kind := schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind).GroupKind()
	return strings.ToLower(kind.String()) + "/" + owner.Name
}

func validateControllerRevision(_ context.Context, r *appsv1.ControllerRevision) field.ErrorList {
	errs := checks.Nonnegative(r.Revision, field.NewPath("revision"))
	if r.Data.Object != nil {
		return errs
	}
	if err := validateRevisionData(r.Data.Raw, field.NewPath("data")); err != nil {
		errs = append(errs, err)
	}
	return errs
}

func validateRevisionData(raw []byte, path *field.Path) *field.Error {
	var data any
	if raw != nil {
		if err := json.Unmarshal(raw, &data); err != nil {
			return field.Invalid(path, "<value omitted>", fmt.Sprintf("error parsing data: %v", err))
		}
	}
	if data == nil {
		return field.Required(path, "data is mandatory")
	}
	if _, ok := data.(map[string]any); !ok {
		return field.Required(path, "data must be a valid JSON object")
	}
	return nil
}

func validateControllerRevisionUpdate(_ context.Context, r, old *appsv1.ControllerRevision) field.ErrorList {
	errs := checks.Nonnegative(r.Revision, field.NewPath("revision"))
	return append(errs, validation.ValidateImmutableField(r.Data, old.Data, field.NewPath("data"))...)
}
