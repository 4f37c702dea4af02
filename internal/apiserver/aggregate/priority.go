package aggregate

import "k8s.io/apimachinery/pkg/runtime/schema"

// Priority orders groups, and versions within their group, in discovery: the
// highest comes first. Clients take the first that fits.
type Priority struct{ Group, Version int32 }

// usual is the version priority of most built-in versions.
const usual = 15

// custom is the priority of custom resources, whose versions are ordered by
// their names.
var custom = Priority{1000, 100}

// PriorityOf returns the priority of a group version that this server answers
// itself; ok is false for those that are not registered as APIServices.
func PriorityOf(gv schema.GroupVersion, isCustom bool) (p Priority, ok bool) {
	if isCustom {
		return custom, true
	}
	switch gv {
	case schema.GroupVersion{Version: "v1"}:
		return Priority{18000, 1}, true
	case schema.GroupVersion{Group: "autoscaling", Version: "v2"}:
		return Priority{17500, 30}, true
	case schema.GroupVersion{Group: "resource.k8s.io", Version: "v1"}:
		return Priority{16200, 20}, true
	case schema.GroupVersion{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}:
		return Priority{16100, 21}, true
	}
	if group, ok := groups[gv.Group]; ok {
		if version, ok := betas[gv]; ok {
			return Priority{group, version}, true
		}
		return Priority{group, usual}, true
	}
	if gv.Group == "apiregistration.k8s.io" {
		return Priority{20000, usual}, false
	}
	return Priority{100, 100}, false
}

// betas are the priorities of versions that come after the stable one.
var betas = map[schema.GroupVersion]int32{
	{Group: "admissionregistration.k8s.io", Version: "v1beta1"}: 12,
	{Group: "certificates.k8s.io", Version: "v1beta1"}:          9,
	{Group: "coordination.k8s.io", Version: "v1beta1"}:          13,
	{Group: "networking.k8s.io", Version: "v1beta1"}:            9,
	{Group: "resource.k8s.io", Version: "v1beta1"}:              9,
	{Group: "storage.k8s.io", Version: "v1beta1"}:               9,
}

// groups are the priorities of the built-in groups (upstream's).
var groups = map[string]int32{
	"apps":                         17800,
	"events.k8s.io":                17750,
	"authentication.k8s.io":        17700,
	"authorization.k8s.io":         17600,
	"autoscaling":                  17500,
	"batch":                        17400,
	"certificates.k8s.io":          17300,
	"networking.k8s.io":            17200,
	"policy":                       17100,
	"rbac.authorization.k8s.io":    17000,
	"storage.k8s.io":               16800,
	"apiextensions.k8s.io":         16700,
	"admissionregistration.k8s.io": 16700,
	"scheduling.k8s.io":            16600,
	"coordination.k8s.io":          16500,
	"node.k8s.io":                  16300,
	"discovery.k8s.io":             16200,
	"resource.k8s.io":              16200,
}
