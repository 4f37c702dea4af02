package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"
)

// countedResources are quota resources measured in whole objects.
func countedResources() []corev1.ResourceName {
	return []corev1.ResourceName{
		corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
		corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
		corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
	}
}

// quotaResources are the unqualified resources that a quota may limit.
func quotaResources() []corev1.ResourceName {
	return append(countedResources(),
		corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsStorage,
		corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
		corev1.ResourceLimitsEphemeralStorage)
}

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

func isQuotaHugePages(name corev1.ResourceName) bool {
	return isHugePages(name) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

// isNative tells whether a name is in the kubernetes.io namespace, where names
// without a prefix are.
func isNative(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// isExtended tells whether a name is one of a device or another resource that
// the cluster does not know itself.
func isExtended(name corev1.ResourceName) bool {
	return !isNative(name) && !strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// mayOvercommit tells whether limits may be above requests.
func mayOvercommit(name corev1.ResourceName) bool { return isNative(name) && !isHugePages(name) }

func isQuotaResource(name corev1.ResourceName) bool {
	return contains(quotaResources(), name) || isQuotaHugePages(name)
}

func (p *problems) resourceName(at *field.Path, name corev1.ResourceName) (ok bool) {
	if messages := validation.IsQualifiedName(string(name)); len(messages) > 0 {
		p.invalids(at, name, messages)
		return false
	}
	if !strings.Contains(string(name), "/") && name != corev1.ResourceStorage && !isQuotaResource(name) {
		p.invalid(at, name, "must be a standard resource type or fully qualified")
		return false
	}
	return true
}

// ValidateContainerResourceName checks the name of a resource that containers
// can ask for.
func ValidateContainerResourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	var p problems
	p.containerResourceName(at, name)
	return p.list()
}

func (p *problems) containerResourceName(at *field.Path, name corev1.ResourceName) {
	p.resourceName(at, name)
	if !strings.Contains(string(name), "/") {
		standard := isHugePages(name) || name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage
		if !standard {
			p.invalid(at, name, "must be a standard resource for containers")
		}
	} else if !isNative(name) && !isExtended(name) {
		p.invalid(at, name, "doesn't follow extended resource name standard")
	}
}

func (p *problems) podResourceName(at *field.Path, name corev1.ResourceName) {
	if p.resourceName(at, name) && !resourcehelper.IsSupportedPodLevelResource(name) {
		p.one(field.NotSupported(at, name, sets.List(resourcehelper.SupportedPodLevelResources())))
	}
}

func (p *problems) quotaResourceName(at *field.Path, name corev1.ResourceName) {
	p.resourceName(at, name)
	if !strings.Contains(string(name), "/") && !isQuotaResource(name) {
		p.invalid(at, name, "must be a standard resource for quota")
	}
}

// quantity checks how much there is of a resource.
func (p *problems) quantity(at *field.Path, name corev1.ResourceName, q resource.Quantity) {
	p.nonNegativeQuantity(at, q)
	whole := contains(countedResources(), name) || isExtended(name)
	if whole && q.MilliValue()%1000 != 0 {
		p.invalid(at, q, "must be an integer")
	}
}

// resources checks requests and limits. named checks a resource's name.
func (p *problems) resources(at *field.Path, r *corev1.ResourceRequirements, claims sets.Set[string],
	named func(*field.Path, corev1.ResourceName)) {
	limits, requests := at.Child("limits"), at.Child("requests")
	compute, hugePages := false, false
	check := func(at *field.Path, name corev1.ResourceName, q resource.Quantity) {
		named(at, name)
		p.quantity(at, name, q)
		if isHugePages(name) {
			hugePages = true
			p.wholeHugePages(at, name, q)
		}
		compute = compute || name == corev1.ResourceCPU || name == corev1.ResourceMemory
	}
	for _, name := range sortedNames(r.Limits) {
		check(limits.Key(string(name)), name, r.Limits[name])
	}
	for _, name := range sortedNames(r.Requests) {
		q := r.Requests[name]
		check(requests.Key(string(name)), name, q)
		limit, limited := r.Limits[name]
		switch {
		case limited && !mayOvercommit(name) && q.Cmp(limit) != 0:
			p.invalid(requests, q.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String()))
		case limited && q.Cmp(limit) > 0:
			p.invalid(requests, q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String()))
		case !limited && !mayOvercommit(name):
			p.missing(limits, "Limit must be set for non overcommitable resources")
		}
	}
	if hugePages && !compute {
		p.forbidden(at, "HugePages require cpu or memory")
	}
	p.resourceClaims(at.Child("claims"), r.Claims, claims)
}

func (p *problems) wholeHugePages(at *field.Path, name corev1.ResourceName, q resource.Quantity) {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	if err != nil || size.Value() <= 0 || q.Value()%size.Value() != 0 {
		p.invalid(at, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), name))
	}
}

// resourceClaims checks a container's references to the pod's claims: each
// names one that is known, as a whole or by requests, not both.
func (p *problems) resourceClaims(at *field.Path, used []corev1.ResourceClaim, known sets.Set[string]) {
	whole, parts := sets.New[string](), map[string]sets.Set[string]{}
	for i, claim := range used {
		at := at.Index(i)
		if claim.Name == "" {
			p.required(at)
			continue
		}
		requests := parts[claim.Name]
		switch {
		case whole.Has(claim.Name):
			p.duplicate(at, claim.Name)
		case claim.Request == "":
			for range requests {
				p.duplicate(at, claim.Name)
			}
			whole.Insert(claim.Name)
		default:
			p.dnsLabel(at.Child("request"), claim.Request)
			if requests.Has(claim.Request) {
				p.duplicate(at, claim.Name+"/"+claim.Request)
			}
			if requests == nil {
				requests = sets.New[string]()
				parts[claim.Name] = requests
			}
			requests.Insert(claim.Request)
		}
		if !known.Has(claim.Name) {
			err := field.NotFound(at, claim.Name)
			err.Detail = "must be one of the names in pod.spec.resourceClaims"
			if len(known) == 0 {
				err.Detail += " which is empty"
			} else {
				err.Detail += ": " + strings.Join(sets.List(known), ", ")
			}
			p.one(err)
		}
	}
}

func sortedNames(l corev1.ResourceList) []corev1.ResourceName {
	return sets.List(sets.KeySet(l))
}

// roundUp brings quantities to whole thousandths, the finest that is kept.
func roundUp(l corev1.ResourceList) {
	for name, q := range l {
		q.RoundUp(resource.Milli)
		l[name] = q
	}
}
