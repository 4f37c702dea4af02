package storage

import (
	"context"
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
)

func csiDriver() *apis.Resource {
	docs := storagev1.CSIDriverSpec{}.SwaggerDoc()
	return apis.Of[*storagev1.CSIDriver]{
		Names: apis.Names{
			Group: "storage.k8s.io", Resource: "csidrivers", Singular: "csidriver", Kind: "CSIDriver",
		},
		Version:                "v1",
		New:                    func() *storagev1.CSIDriver { return &storagev1.CSIDriver{} },
		NewList:                func() runtime.Object { return &storagev1.CSIDriverList{} },
		ReturnDeleted:          true,
		RequireResourceVersion: true,
		NewGeneration: func(d, old *storagev1.CSIDriver) bool {
			return !equality.Semantic.DeepEqual(d.Spec, old.Spec)
		},
		PrepareCreate: func(_ context.Context, d *storagev1.CSIDriver) { dropScheduling(d, nil) },
		PrepareUpdate: func(_ context.Context, d, old *storagev1.CSIDriver) { dropScheduling(d, old) },
		Default: func(d *storagev1.CSIDriver) {
			fill.Pointer(&d.Spec.AttachRequired, true)
			fill.Pointer(&d.Spec.PodInfoOnMount, false)
			fill.Pointer(&d.Spec.StorageCapacity, false)
			fill.Pointer(&d.Spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
			fill.Pointer(&d.Spec.RequiresRepublish, false)
			fill.Pointer(&d.Spec.SELinuxMount, false)
			if len(d.Spec.VolumeLifecycleModes) == 0 {
				d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
			}
		},
		Validate: validateCSIDriver,
		Warnings: tokenWarnings,
		ValidateUpdate: func(ctx context.Context, d, old *storagev1.CSIDriver) field.ErrorList {
			path := field.NewPath("spec")
			errs := validateCSIDriver(ctx, d)
			errs = append(errs, validation.ValidateImmutableField(d.Spec.AttachRequired, old.Spec.AttachRequired, path.Child("attachedRequired"))...)
			return append(errs, validation.ValidateImmutableField(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, path.Child("volumeLifecycleModes"))...)
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.Boolean("AttachRequired", docs["attachRequired"]),
			columns.Boolean("PodInfoOnMount", docs["podInfoOnMount"]),
			columns.Boolean("StorageCapacity", docs["storageCapacity"]),
			columns.String("TokenRequests", docs["tokenRequests"]),
			columns.Boolean("RequiresRepublish", docs["requiresRepublish"]),
			columns.String("Modes", docs["volumeLifecycleModes"]),
			columns.AgeColumn(),
		},
		Cells: func(d *storagev1.CSIDriver) []any {
			modes, tokens := columns.None, "<unset>"
			if len(d.Spec.VolumeLifecycleModes) > 0 {
				var names []string
				for _, m := range d.Spec.VolumeLifecycleModes {
					names = append(names, string(m))
				}
				modes = strings.Join(names, ",")
			}
			if d.Spec.TokenRequests != nil {
				var audiences []string
				for _, t := range d.Spec.TokenRequests {
					audiences = append(audiences, t.Audience)
				}
				tokens = strings.Join(audiences, ",")
			}
			return []any{
				d.Name, ptr.Deref(d.Spec.AttachRequired, true), ptr.Deref(d.Spec.PodInfoOnMount, false), ptr.Deref(d.Spec.StorageCapacity, false),
				tokens, ptr.Deref(d.Spec.RequiresRepublish, false), modes, columns.Age(d.CreationTimestamp),
			}
		},
	}.Resource()
}

// dropScheduling drops the field of a feature that is off by default, unless it
// was in use: old is nil on create.
func dropScheduling(d, old *storagev1.CSIDriver) {
	if old == nil || old.Spec.PreventPodSchedulingIfMissing == nil {
		d.Spec.PreventPodSchedulingIfMissing = nil
	}
}

// tokenWarnings warns of tokens where logs may show them.
func tokenWarnings(_ context.Context, d, old *storagev1.CSIDriver) []string {
	tokens := d.Spec.TokenRequests
	if len(tokens) == 0 || d.Spec.ServiceAccountTokenInSecrets != nil || old != nil && equality.Semantic.DeepEqual(tokens, old.Spec.TokenRequests) {
		return nil
	}
	return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
}

func validateCSIDriver(_ context.Context, d *storagev1.CSIDriver) field.ErrorList {
	var errs field.ErrorList
	s, path := &d.Spec, field.NewPath("spec")
	required := func(v *bool, name string) {
		if v == nil {
			errs = append(errs, field.Required(path.Child(name), ""))
		}
	}
	required(s.AttachRequired, "attachedRequired")
	required(s.PodInfoOnMount, "podInfoOnMount")
	required(s.StorageCapacity, "storageCapacity")
	required(s.SELinuxMount, "seLinuxMount")
	if s.FSGroupPolicy != nil {
		errs = append(errs, checks.Supported(*s.FSGroupPolicy, path.Child("fsGroupPolicy"),
			storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)...)
	}
	for _, mode := range s.VolumeLifecycleModes {
		errs = append(errs, checks.Supported(mode, path.Child("volumeLifecycleModes"), storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)...)
	}
	const minPeriod = 10
	if p := s.NodeAllocatableUpdatePeriodSeconds; p != nil && *p < minPeriod {
		errs = append(errs, field.Invalid(path.Child("nodeAllocatableUpdatePeriodSeconds"), *p, "must be greater than or equal to 10 seconds"))
	}
	if s.ServiceAccountTokenInSecrets != nil && len(s.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(path.Child("serviceAccountTokenInSecrets"), *s.ServiceAccountTokenInSecrets, "serviceAccountTokenInSecrets is set but no tokenRequests are specified"))
	}
	const minExpiration, maxExpiration = 10 * 60, 1 << 32
	audiences := map[string]bool{}
	for i, t := range s.TokenRequests {
		at := path.Child("tokenRequests").Index(i)
		if audiences[t.Audience] {
			errs = append(errs, field.Duplicate(at.Child("audience"), t.Audience))
			continue
		}
		audiences[t.Audience] = true
		if t.ExpirationSeconds != nil && *t.ExpirationSeconds < minExpiration {
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *t.ExpirationSeconds, "may not specify a duration less than 10 minutes"))
		}
		if t.ExpirationSeconds != nil && *t.ExpirationSeconds > maxExpiration {
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *t.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return errs
}
