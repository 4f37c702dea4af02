package verbs

import (
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	listvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func optionsError(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}

// CheckCreateOptions refuses options that cannot be, before a body is read.
func CheckCreateOptions(o *metav1.CreateOptions) error {
	return optionsError("CreateOptions", metav1validation.ValidateCreateOptions(o))
}

// CheckUpdateOptions refuses options that cannot be, before a body is read.
func CheckUpdateOptions(o *metav1.UpdateOptions) error {
	return optionsError("UpdateOptions", metav1validation.ValidateUpdateOptions(o))
}

func validatePatchOptions(o *metav1.PatchOptions, t types.PatchType) error {
	return optionsError("PatchOptions", metav1validation.ValidatePatchOptions(o, t))
}

func validateDeleteOptions(o *metav1.DeleteOptions) error {
	return optionsError("DeleteOptions", metav1validation.ValidateDeleteOptions(o))
}

func validateListOptions(o *ListOptions, watch bool) error {
	all := &internalversion.ListOptions{
		Watch: watch, ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
		Continue: o.Continue, SendInitialEvents: o.SendInitialEvents,
	}
	internalversion.SetListOptionsDefaults(all, true)
	return optionsError("ListOptions", listvalidation.ValidateListOptions(all, true))
}

func requiredResourceVersion() field.ErrorList {
	return field.ErrorList{field.Invalid(field.NewPath("metadata", "resourceVersion"), 0, "must be specified for an update")}
}
