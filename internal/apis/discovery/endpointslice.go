package discovery

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
)

// Limits of one slice, upstream's.
const (
	maxEndpoints      = 1000
	maxAddresses      = 100
	maxPorts          = 20000
	maxTopologyLabels = 16
	maxHints          = 8
	// maxShown is how many ports or addresses a cell of the table names.
	maxShown = 3
)

func endpointSlice() *apis.Resource {
	docs := discoveryv1.EndpointSlice{}.SwaggerDoc()
	return apis.Of[*discoveryv1.EndpointSlice]{
		Names: apis.Names{
			Group: "discovery.k8s.io", Resource: "endpointslices", Singular: "endpointslice", Kind: "EndpointSlice",
			Namespaced: true,
		},
		Version:          "v1",
		New:              func() *discoveryv1.EndpointSlice { return &discoveryv1.EndpointSlice{} },
		NewList:          func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsNew},
		Generation:       true,
		Default:          defaultEndpointSlice,
		NewGeneration: func(s, old *discoveryv1.EndpointSlice) bool {
			return !equality.Semantic.DeepEqual(s.Labels, old.Labels)
		},
		Discard: dropTopology,
		Validate: func(_ context.Context, s *discoveryv1.EndpointSlice) field.ErrorList {
			return validateEndpointSlice(s, nil)
		},
		ValidateUpdate: validateEndpointSliceUpdate,
		Warnings:       sliceWarnings,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("AddressType", docs["addressType"]),
			columns.String("Ports", docs["ports"]),
			columns.String("Endpoints", docs["endpoints"]),
			columns.AgeColumn(),
		},
		Cells: func(s *discoveryv1.EndpointSlice) []any {
			return []any{s.Name, string(s.AddressType), portsCell(s.Ports), endpointsCell(s.Endpoints), columns.Age(s.CreationTimestamp)}
		},
	}.Resource()
}

func defaultEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		fill.Pointer(&s.Ports[i].Name, "")
		fill.Pointer(&s.Ports[i].Protocol, corev1.ProtocolTCP)
	}
}

// dropTopology clears the field that v1 only keeps for slices written through
// v1beta1: it stays as long as no endpoint changes. The nodes that it named
// stay known.
func dropTopology(_ context.Context, s, old *discoveryv1.EndpointSlice) {
	nodes := sets.New[string]()
	if old != nil {
		if equality.Semantic.DeepEqual(old.Endpoints, s.Endpoints) {
			return
		}
		for i := range old.Endpoints {
			nodes.Insert(old.Endpoints[i].DeprecatedTopology[corev1.LabelHostname])
		}
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		node := e.DeprecatedTopology[corev1.LabelHostname]
		if e.NodeName == nil && nodes.Has(node) && len(utilvalidation.IsDNS1123Subdomain(node)) == 0 {
			e.NodeName = &node
		}
		e.DeprecatedTopology = nil
	}
}

func validateEndpointSliceUpdate(_ context.Context, s, old *discoveryv1.EndpointSlice) field.ErrorList {
	errs := validateEndpointSlice(s, old)
	return append(errs, validation.ValidateImmutableField(s.AddressType, old.AddressType, field.NewPath("addressType"))...)
}

// validateEndpointSlice checks a slice. Endpoints that are as before are good.
func validateEndpointSlice(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	errs := checks.Enum(s.AddressType, field.NewPath("addressType"), discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	errs = append(errs, validatePorts(s.Ports, field.NewPath("ports"))...)
	endpoints := checks.Items(s.Endpoints, maxEndpoints, field.NewPath("endpoints"), func(e *discoveryv1.Endpoint, path *field.Path) field.ErrorList {
		return validateEndpoint(e, s.AddressType, path)
	})
	if len(endpoints) > 0 && old != nil && equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) {
		return errs
	}
	return append(errs, endpoints...)
}

func validateEndpoint(e *discoveryv1.Endpoint, kind discoveryv1.AddressType, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	addresses := path.Child("addresses")
	if len(e.Addresses) == 0 {
		errs = append(errs, field.Required(addresses, "must contain at least 1 address"))
	} else if len(e.Addresses) > maxAddresses {
		errs = append(errs, field.TooMany(addresses, len(e.Addresses), maxAddresses))
	}
	for i, address := range e.Addresses {
		errs = append(errs, validateAddress(address, kind, addresses, i)...)
	}
	if e.NodeName != nil {
		errs = append(errs, checks.Name(*e.NodeName, path.Child("nodeName"), utilvalidation.IsDNS1123Subdomain)...)
	}
	topology := path.Child("deprecatedTopology")
	if len(e.DeprecatedTopology) > maxTopologyLabels {
		errs = append(errs, field.TooMany(topology, len(e.DeprecatedTopology), maxTopologyLabels))
	}
	errs = append(errs, metav1validation.ValidateLabels(e.DeprecatedTopology, topology)...)
	if e.Hostname != nil {
		errs = append(errs, checks.Name(*e.Hostname, path.Child("hostname"), utilvalidation.IsDNS1123Label)...)
	}
	return append(errs, validateHints(e.Hints, path.Child("hints"))...)
}

func validateAddress(address string, kind discoveryv1.AddressType, list *field.Path, i int) field.ErrorList {
	path := list.Index(i)
	switch kind {
	case discoveryv1.AddressTypeFQDN:
		return utilvalidation.IsFullyQualifiedDomainName(path, address)
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
		if errs := utilvalidation.IsValidIPForLegacyField(path, address, true, nil); len(errs) > 0 {
			return errs
		}
		var errs field.ErrorList
		if addr, err := netip.ParseAddr(address); err == nil && addr.Is4() != (kind == discoveryv1.AddressTypeIPv4) {
			errs = append(errs, field.Invalid(list, address, fmt.Sprintf("must be an %s address", kind)))
		}
		return append(errs, checks.EndpointIP(address, path)...)
	}
	return nil
}

func validateHints(h *discoveryv1.EndpointHints, path *field.Path) field.ErrorList {
	if h == nil {
		return nil
	}
	var errs field.ErrorList
	list := func(names []string, path *field.Path, check func(string) []string) {
		if len(names) > maxHints {
			errs = append(errs, field.TooMany(path, len(names), maxHints))
			return
		}
		seen := sets.New[string]()
		for i, name := range names {
			at := path.Index(i).Child("name")
			if seen.Has(name) {
				errs = append(errs, field.Duplicate(at, name))
			}
			seen.Insert(name)
			errs = append(errs, checks.Name(name, at, check)...)
		}
	}
	zones, nodes := make([]string, len(h.ForZones)), make([]string, len(h.ForNodes))
	for i := range h.ForZones {
		zones[i] = h.ForZones[i].Name
	}
	for i := range h.ForNodes {
		nodes[i] = h.ForNodes[i].Name
	}
	list(zones, path.Child("forZones"), utilvalidation.IsValidLabelValue)
	list(nodes, path.Child("forNodes"), utilvalidation.IsDNS1123Subdomain)
	return errs
}

func validatePorts(ports []discoveryv1.EndpointPort, path *field.Path) field.ErrorList {
	if len(ports) > maxPorts {
		return field.ErrorList{field.TooMany(path, len(ports), maxPorts)}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range ports {
		p, path := &ports[i], path.Index(i)
		name := ""
		if p.Name != nil {
			name = *p.Name
		}
		if name != "" {
			errs = append(errs, checks.Name(name, path.Child("name"), utilvalidation.IsDNS1123Label)...)
		}
		if seen.Has(name) {
			errs = append(errs, field.Duplicate(path.Child("name"), name))
		}
		seen.Insert(name)
		if p.Protocol == nil {
			errs = append(errs, field.Required(path.Child("protocol"), ""))
		} else {
			errs = append(errs, checks.Supported(*p.Protocol, path.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
		if p.AppProtocol != nil {
			errs = append(errs, checks.Name(*p.AppProtocol, path.Child("appProtocol"), utilvalidation.IsQualifiedName)...)
		}
	}
	return errs
}

// sliceWarnings warns of what consumers may not understand. The controllers'
// own slices are free of it.
func sliceWarnings(_ context.Context, s, old *discoveryv1.EndpointSlice) []string {
	if old == nil && s.AddressType == discoveryv1.AddressTypeFQDN {
		return []string{"spec.addressType: FQDN endpoints are deprecated"}
	}
	switch s.Labels[discoveryv1.LabelManagedBy] {
	case "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io":
		return nil
	}
	var warnings []string
	for i := range s.Endpoints {
		for k, address := range s.Endpoints[i].Addresses {
			warnings = append(warnings, utilvalidation.GetWarningsForIP(field.NewPath("endpoints").Index(i).Child("addresses").Index(k), address)...)
		}
	}
	return warnings
}

func portsCell(ports []discoveryv1.EndpointPort) string {
	var all []string
	for i := range ports {
		switch p := &ports[i]; {
		case p.Port != nil:
			all = append(all, strconv.Itoa(int(*p.Port)))
		case p.Name != nil:
			all = append(all, *p.Name)
		default:
			all = append(all, "*")
		}
	}
	return shortened(all)
}

func endpointsCell(endpoints []discoveryv1.Endpoint) string {
	var all []string
	for i := range endpoints {
		all = append(all, endpoints[i].Addresses...)
	}
	return shortened(all)
}

func shortened(all []string) string {
	if len(all) > maxShown {
		return fmt.Sprintf("%s + %d more...", strings.Join(all[:maxShown], ","), len(all)-maxShown)
	}
	if text := strings.Join(all, ","); text != "" {
		return text
	}
	return "<unset>"
}
