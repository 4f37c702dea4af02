package resource

import (
	"context"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
)

func resourceSlice() *apis.Resource {
	docs := resourcev1.ResourceSliceSpec{}.SwaggerDoc()
	return apis.Of[*resourcev1.ResourceSlice]{
		Names: apis.Names{
			Group: "resource.k8s.io", Resource: "resourceslices", Singular: "resourceslice", Kind: "ResourceSlice",
		},
		Version:       "v1",
		New:           func() *resourcev1.ResourceSlice { return &resourcev1.ResourceSlice{} },
		NewList:       func() runtime.Object { return &resourcev1.ResourceSliceList{} },
		Generation:    true,
		PrepareCreate: func(_ context.Context, s *resourcev1.ResourceSlice) { stampTaints(s) },
		PrepareUpdate: func(_ context.Context, s, _ *resourcev1.ResourceSlice) { stampTaints(s) },
		Validate:      validateSlice,
		ValidateUpdate: func(ctx context.Context, s, old *resourcev1.ResourceSlice) field.ErrorList {
			path := field.NewPath("spec")
			errs := validateSlice(ctx, s)
			errs = append(errs, validation.ValidateImmutableField(s.Spec.Pool.Name, old.Spec.Pool.Name, path.Child("pool", "name"))...)
			errs = append(errs, validation.ValidateImmutableField(s.Spec.Driver, old.Spec.Driver, path.Child("driver"))...)
			return append(errs, validation.ValidateImmutableField(s.Spec.NodeName, old.Spec.NodeName, path.Child("nodeName"))...)
		},
		Fields: map[string]func(*resourcev1.ResourceSlice) string{
			resourcev1.ResourceSliceSelectorNodeName: func(s *resourcev1.ResourceSlice) string { return ptr.Deref(s.Spec.NodeName, "") },
			resourcev1.ResourceSliceSelectorDriver:   func(s *resourcev1.ResourceSlice) string { return s.Spec.Driver },
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Node", docs["nodeName"]),
			columns.String("Driver", docs["driver"]),
			columns.String("Pool", resourcev1.ResourcePool{}.SwaggerDoc()["name"]),
			columns.AgeColumn(),
		},
		Cells: func(s *resourcev1.ResourceSlice) []any {
			node := "<unset>"
			if s.Spec.NodeName != nil {
				node = *s.Spec.NodeName
			}
			return []any{s.Name, node, s.Spec.Driver, s.Spec.Pool.Name, columns.Age(s.CreationTimestamp)}
		},
	}.Resource()
}

// maxDevices is how many devices one slice lists.
const maxDevices = 128

// stampTaints notes when taints were added, where the driver did not.
func stampTaints(s *resourcev1.ResourceSlice) {
	for i := range s.Spec.Devices {
		for k := range s.Spec.Devices[i].Taints {
			fill.Pointer(&s.Spec.Devices[i].Taints[k].TimeAdded, metav1.Now())
		}
	}
}

func validateSlice(_ context.Context, r *resourcev1.ResourceSlice) field.ErrorList {
	s, path := &r.Spec, field.NewPath("spec")
	errs := validateDriverName(s.Driver, path.Child("driver"))
	pool := path.Child("pool")
	if s.Pool.Name == "" {
		errs = append(errs, field.Required(pool.Child("name"), ""))
	} else {
		for _, part := range strings.Split(s.Pool.Name, "/") {
			errs = append(errs, checks.Name(part, pool.Child("name"), utilvalidation.IsDNS1123Subdomain)...)
		}
	}
	if s.Pool.ResourceSliceCount <= 0 {
		errs = append(errs, field.Invalid(pool.Child("resourceSliceCount"), s.Pool.ResourceSliceCount, "must be greater than zero"))
	}
	errs = append(errs, checks.Nonnegative(s.Pool.Generation, pool.Child("generation"))...)
	errs = append(errs, validateNodeChoice(s, path)...)
	if n := len(s.Devices); n > maxDevices {
		errs = append(errs, field.TooMany(path.Child("devices"), n, maxDevices))
	}
	seen := map[string]bool{}
	for i := range s.Devices {
		d, at := &s.Devices[i], path.Child("devices").Index(i)
		errs = append(errs, checks.RequiredName(d.Name, at.Child("name"), utilvalidation.IsDNS1123Label)...)
		if seen[d.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), d.Name))
		}
		seen[d.Name] = true
		for k, taint := range d.Taints {
			tainted := at.Child("taints").Index(k)
			errs = append(errs, checks.RequiredName(taint.Key, tainted.Child("key"), utilvalidation.IsQualifiedName)...)
			errs = append(errs, checks.Name(taint.Value, tainted.Child("value"), utilvalidation.IsValidLabelValue)...)
			errs = append(errs, checks.Enum(taint.Effect, tainted.Child("effect"), resourcev1.DeviceTaintEffectNoExecute,
				resourcev1.DeviceTaintEffectNone, resourcev1.DeviceTaintEffectNoSchedule)...)
		}
	}
	return errs
}

// validateNodeChoice demands exactly one way of saying which nodes reach the
// devices.
func validateNodeChoice(s *resourcev1.ResourceSliceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	chosen := 0
	if s.NodeName != nil {
		chosen++
		errs = append(errs, checks.RequiredName(*s.NodeName, path.Child("nodeName"), utilvalidation.IsDNS1123Subdomain)...)
	}
	if s.NodeSelector != nil {
		chosen++
		if len(s.NodeSelector.NodeSelectorTerms) != 1 {
			errs = append(errs, field.Invalid(path.Child("nodeSelector", "nodeSelectorTerms"), s.NodeSelector.NodeSelectorTerms, "must have exactly one node selector term"))
		}
	}
	flag := func(v *bool, name string) {
		switch {
		case v == nil:
		case *v:
			chosen++
		default:
			errs = append(errs, field.Invalid(path.Child(name), false, "must be either unset or set to true"))
		}
	}
	flag(s.AllNodes, "allNodes")
	flag(s.PerDeviceNodeSelection, "perDeviceNodeSelection")
	const choices = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	switch {
	case chosen == 0:
		errs = append(errs, field.Required(path, choices))
	case chosen > 1:
		errs = append(errs, field.Invalid(path, nil, choices+", but multiple fields are set"))
	}
	return errs
}
