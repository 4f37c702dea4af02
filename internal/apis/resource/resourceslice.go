package resource

import (
	"context"
	"fmt"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	resourcev1beta1 "k8s.io/api/resource/v1beta1"
	resourcev1beta2 "k8s.io/api/resource/v1beta2"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/core"
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
		ReturnDeleted: true,
		Other: []apis.Version{
			apis.Twin[resourcev1.ResourceSlice, resourcev1beta2.ResourceSlice](resourcev1beta2.SchemeGroupVersion.WithKind("ResourceSlice"), func() runtime.Object { return &resourcev1beta2.ResourceSliceList{} }),
			apis.Cousin[resourcev1.ResourceSlice, resourcev1beta1.ResourceSlice](resourcev1beta1.SchemeGroupVersion.WithKind("ResourceSlice"), func() runtime.Object { return &resourcev1beta1.ResourceSliceList{} }, sliceFromV1beta1, sliceToV1beta1),
		},
		Generation:    true,
		PrepareCreate: func(_ context.Context, s *resourcev1.ResourceSlice) { noteTaints(s) },
		PrepareUpdate: func(_ context.Context, s, _ *resourcev1.ResourceSlice) { noteTaints(s) },
		Discard:       discardUnused,
		Validate: func(_ context.Context, s *resourcev1.ResourceSlice) field.ErrorList {
			return validateSlice(&s.Spec, nil)
		},
		ValidateUpdate: func(_ context.Context, s, old *resourcev1.ResourceSlice) field.ErrorList {
			return validateSlice(&s.Spec, &old.Spec)
		},
		Warnings: driverWarnings,
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

// noteTaints notes when taints were added, where the driver did not.
func noteTaints(s *resourcev1.ResourceSlice) {
	for i := range s.Spec.Devices {
		taints := s.Spec.Devices[i].Taints
		for k := range taints {
			fill.Pointer(&taints[k].TimeAdded, metav1.Now())
		}
	}
}

// discardUnused drops fields of features that are off by default.
func discardUnused(_ context.Context, s, old *resourcev1.ResourceSlice) {
	lists, mappings := usesLists(old), usesMappings(old)
	for i := range s.Spec.Devices {
		d := &s.Spec.Devices[i]
		if !mappings {
			d.NodeAllocatableResourceMappings = nil
		}
		for name, a := range d.Attributes {
			if !lists && hasList(a) {
				a.BoolValues, a.IntValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
				d.Attributes[name] = a
			}
		}
	}
}

func hasList(a resourcev1.DeviceAttribute) bool {
	return a.BoolValues != nil || a.IntValues != nil || a.StringValues != nil || a.VersionValues != nil
}

func usesLists(s *resourcev1.ResourceSlice) bool {
	if s == nil {
		return false
	}
	for i := range s.Spec.Devices {
		for _, a := range s.Spec.Devices[i].Attributes {
			if hasList(a) {
				return true
			}
		}
	}
	return false
}

func usesMappings(s *resourcev1.ResourceSlice) bool {
	return s != nil && slices.ContainsFunc(s.Spec.Devices, func(d resourcev1.Device) bool { return len(d.NodeAllocatableResourceMappings) > 0 })
}

// validateSlice checks a slice; old is nil on create.
func validateSlice(s, old *resourcev1.ResourceSliceSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := checks.DriverName(s.Driver, path.Child("driver"))
	pool := path.Child("pool")
	errs = append(errs, validatePoolName(s.Pool.Name, pool.Child("name"))...)
	if s.Pool.ResourceSliceCount <= 0 {
		errs = append(errs, field.Invalid(pool.Child("resourceSliceCount"), s.Pool.ResourceSliceCount, "must be greater than zero"))
	}
	if s.Pool.Generation < 0 {
		errs = append(errs, field.Invalid(pool.Child("generation"), s.Pool.Generation, "must be greater than or equal to zero"))
	}
	before := map[string]*resourcev1.Device{}
	if old != nil {
		errs = append(errs, validation.ValidateImmutableField(s.Pool.Name, old.Pool.Name, pool.Child("name"))...)
		errs = append(errs, validation.ValidateImmutableField(s.Driver, old.Driver, path.Child("driver"))...)
		errs = append(errs, validation.ValidateImmutableField(s.NodeName, old.NodeName, path.Child("nodeName"))...)
		for i := range old.Devices {
			before[old.Devices[i].Name] = &old.Devices[i]
		}
	}
	errs = append(errs, validateSliceNodes(s, path)...)
	if s.SharedCounters != nil && s.Devices != nil {
		errs = append(errs, field.Invalid(path, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	limit := resourcev1.ResourceSliceMaxDevices
	if slices.ContainsFunc(s.Devices, func(d resourcev1.Device) bool { return len(d.Taints) > 0 || len(d.ConsumesCounters) > 0 }) {
		limit = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	choosesNodes := ptr.Deref(s.PerDeviceNodeSelection, false)
	errs = append(errs, checks.Set(s.Devices, limit, path.Child("devices"), func(d *resourcev1.Device) string { return d.Name },
		func(d *resourcev1.Device, at *field.Path) field.ErrorList {
			return validateDevice(d, before[d.Name], choosesNodes, at)
		})...)
	return append(errs, checks.Set(s.SharedCounters, resourcev1.ResourceSliceMaxCounterSets, path.Child("sharedCounters"),
		func(c *resourcev1.CounterSet) string { return c.Name },
		func(c *resourcev1.CounterSet, at *field.Path) field.ErrorList {
			errs := checks.RequiredName(c.Name, at.Child("name"), utilvalidation.IsDNS1123Label)
			return append(errs, validateCounters(c.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet, at.Child("counters"))...)
		})...)
}

// validateSliceNodes demands exactly one way of saying which nodes reach the
// devices.
func validateSliceNodes(s *resourcev1.ResourceSliceSpec, path *field.Path) field.ErrorList {
	var c choice
	c.name(s.NodeName, path.Child("nodeName"), "must be either unset or set to a non-empty string")
	if s.NodeSelector != nil {
		at := path.Child("nodeSelector")
		c.made("nodeSelector")
		c.errs = append(c.errs, core.ValidateNodeSelector(s.NodeSelector, at)...)
		if len(s.NodeSelector.NodeSelectorTerms) != 1 {
			c.errs = append(c.errs, field.Invalid(at.Child("nodeSelectorTerms"), s.NodeSelector.NodeSelectorTerms, "must have exactly one node selector term"))
		}
	}
	c.flag("allNodes", s.AllNodes, path)
	c.flag("perDeviceNodeSelection", s.PerDeviceNodeSelection, path)
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	return c.exactlyOne(path, one, one+", but multiple fields are set")
}

func driverWarnings(_ context.Context, s, _ *resourcev1.ResourceSlice) []string {
	if s.Spec.Driver == strings.ToLower(s.Spec.Driver) {
		return nil
	}
	return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", s.Spec.Driver)}
}
