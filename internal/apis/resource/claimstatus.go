package resource

import (
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/dynamic-resource-allocation/structured"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks"
	"skiff/internal/apis/core"
)

// deviceKey identifies a device, or a share of one, in a claim's status.
type deviceKey struct{ driver, pool, device, share string }

func keyOf(d *resourcev1.AllocatedDeviceStatus) deviceKey {
	k := deviceKey{driver: d.Driver, pool: d.Pool, device: d.Device}
	if d.ShareID != nil {
		k.share = *d.ShareID
	}
	return k
}

// dropDeallocated removes reports on devices that the claim had and has no more.
func dropDeallocated(c, old *resourcev1.ResourceClaim) {
	devices := func(a *resourcev1.AllocationResult) map[deviceKey]bool {
		out := map[deviceKey]bool{}
		if a != nil {
			for _, r := range a.Devices.Results {
				out[deviceKey{r.Driver, r.Pool, r.Device, string(ptr.Deref(r.ShareID, ""))}] = true
			}
		}
		return out
	}
	had, has := devices(old.Status.Allocation), devices(c.Status.Allocation)
	c.Status.Devices = slices.DeleteFunc(c.Status.Devices, func(d resourcev1.AllocatedDeviceStatus) bool {
		k := keyOf(&d)
		return had[k] && !has[k]
	})
	if len(c.Status.Devices) == 0 {
		c.Status.Devices = nil
	}
}

func validateClaimStatus(c, old *resourcev1.ResourceClaim) field.ErrorList {
	s, path := &c.Status, field.NewPath("status")
	reserved := path.Child("reservedFor")
	errs := checks.Set(s.ReservedFor, resourcev1.ResourceClaimReservedForMaxSize, reserved,
		func(r *resourcev1.ResourceClaimConsumerReference) types.UID { return r.UID }, validateConsumer)
	errs = append(errs, validateDeviceStatuses(s, path.Child("devices"))...)
	switch {
	case len(s.ReservedFor) > 0 && s.Allocation == nil:
		errs = append(errs, field.Forbidden(reserved, "may not be specified when `allocated` is not set"))
	case c.DeletionTimestamp != nil && slices.ContainsFunc(s.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool {
		return !slices.Contains(old.Status.ReservedFor, r)
	}):
		errs = append(errs, field.Forbidden(reserved, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))
	}
	switch {
	case s.Allocation == nil:
	case old.Status.Allocation != nil:
		// An allocation in use cannot become another one. It is not checked
		// again, since the rules for new ones may have become stricter.
		errs = append(errs, validation.ValidateImmutableField(s.Allocation, old.Status.Allocation, path.Child("allocation"))...)
	default:
		errs = append(errs, validateAllocation(s.Allocation, namesOf(&c.Spec.Devices), path.Child("allocation"))...)
	}
	return errs
}

func validateConsumer(r *resourcev1.ResourceClaimConsumerReference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, part := range []struct{ name, value string }{{"resource", r.Resource}, {"name", r.Name}, {"uid", string(r.UID)}} {
		if part.value == "" {
			errs = append(errs, field.Required(path.Child(part.name), ""))
		}
	}
	return errs
}

func validateDeviceStatuses(s *resourcev1.ResourceClaimStatus, path *field.Path) field.ErrorList {
	allocated := map[structured.SharedDeviceID]bool{}
	if s.Allocation != nil {
		for _, r := range s.Allocation.Devices.Results {
			allocated[structured.MakeSharedDeviceID(structured.MakeDeviceID(r.Driver, r.Pool, r.Device), r.ShareID)] = true
		}
	}
	id := func(d *resourcev1.AllocatedDeviceStatus) structured.SharedDeviceID {
		return structured.MakeSharedDeviceID(structured.MakeDeviceID(d.Driver, d.Pool, d.Device), (*types.UID)(d.ShareID))
	}
	return checks.Set(s.Devices, len(s.Devices), path, id, func(d *resourcev1.AllocatedDeviceStatus, at *field.Path) field.ErrorList {
		errs := checks.DriverName(d.Driver, at.Child("driver"))
		errs = append(errs, validatePoolName(d.Pool, at.Child("pool"))...)
		errs = append(errs, validateLabel(d.Device, at.Child("device"))...)
		if d.ShareID != nil {
			errs = append(errs, validateUID(*d.ShareID, at.Child("shareID"))...)
		}
		if !allocated[id(d)] {
			errs = append(errs, field.Invalid(at, id(d), "must be an allocated device in the claim"))
		}
		if n := len(d.Conditions); n > resourcev1.AllocatedDeviceStatusMaxConditions {
			errs = append(errs, field.TooMany(at.Child("conditions"), n, resourcev1.AllocatedDeviceStatusMaxConditions))
		}
		errs = append(errs, metav1validation.ValidateConditions(d.Conditions, at.Child("conditions"))...)
		if d.Data != nil && len(d.Data.Raw) > 0 {
			errs = append(errs, validateJSONObject(*d.Data, resourcev1.AllocatedDeviceStatusDataMaxLength, at.Child("data"))...)
		}
		return append(errs, validateNetworkData(d.NetworkData, at.Child("networkData"))...)
	})
}

func validateNetworkData(n *resourcev1.NetworkDeviceData, path *field.Path) field.ErrorList {
	if n == nil {
		return nil
	}
	var errs field.ErrorList
	if len(n.InterfaceName) > resourcev1.NetworkDeviceDataInterfaceNameMaxLength {
		errs = append(errs, field.TooLong(path.Child("interfaceName"), "", resourcev1.NetworkDeviceDataInterfaceNameMaxLength))
	}
	if len(n.HardwareAddress) > resourcev1.NetworkDeviceDataHardwareAddressMaxLength {
		errs = append(errs, field.TooLong(path.Child("hardwareAddress"), "", resourcev1.NetworkDeviceDataHardwareAddressMaxLength))
	}
	return append(errs, checks.Set(n.IPs, resourcev1.NetworkDeviceDataMaxIPs, path.Child("ips"), func(ip *string) string { return *ip },
		func(ip *string, at *field.Path) field.ErrorList {
			return utilvalidation.IsValidInterfaceAddress(at, *ip)
		})...)
}

func validateAllocation(a *resourcev1.AllocationResult, names requestNames, path *field.Path) field.ErrorList {
	devices := path.Child("devices")
	errs := checks.Items(a.Devices.Results, resourcev1.AllocationResultsMaxSize, devices.Child("results"),
		func(r *resourcev1.DeviceRequestAllocationResult, at *field.Path) field.ErrorList {
			errs := names.validateRef(r.Request, at.Child("request"))
			errs = append(errs, checks.DriverName(r.Driver, at.Child("driver"))...)
			errs = append(errs, validatePoolName(r.Pool, at.Child("pool"))...)
			errs = append(errs, validateLabel(r.Device, at.Child("device"))...)
			errs = append(errs, validateBindingConditions(r.BindingConditions, r.BindingFailureConditions, at)...)
			errs = append(errs, validateTolerations(r.Tolerations, at.Child("tolerations"))...)
			if r.ShareID != nil {
				errs = append(errs, validateUID(string(*r.ShareID), at.Child("shareID"))...)
			}
			return errs
		})
	// It holds the configuration of the classes and of the claim.
	errs = append(errs, checks.Items(a.Devices.Config, 2*resourcev1.DeviceConfigMaxSize, devices.Child("config"),
		func(c *resourcev1.DeviceAllocationConfiguration, at *field.Path) field.ErrorList {
			errs := checks.Enum(c.Source, at.Child("source"), resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass)
			errs = append(errs, names.validateRefs(c.Requests, at.Child("requests"))...)
			return append(errs, validateConfiguration(&c.DeviceConfiguration, true, at)...)
		})...)
	if a.NodeSelector != nil {
		errs = append(errs, core.ValidateNodeSelector(a.NodeSelector, path.Child("nodeSelector"))...)
	}
	return errs
}
