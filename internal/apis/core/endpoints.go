package core

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

func endpoints() *apis.Resource {
	return apis.Of[*corev1.Endpoints]{
		Names:               apis.Names{Resource: "endpoints", Singular: "endpoints", Kind: "Endpoints", ShortNames: []string{"ep"}, Namespaced: true},
		Version:             "v1",
		Prefix:              "/registry/services/endpoints",
		New:                 func() *corev1.Endpoints { return &corev1.Endpoints{} },
		NewList:             func() runtime.Object { return &corev1.EndpointsList{} },
		AllowCreateOnUpdate: true,
		MetadataOnUpdate:    []apis.MetadataCheck{apis.AsChanged, apis.AsNew},
		Default: func(e *corev1.Endpoints) {
			for i := range e.Subsets {
				for j := range e.Subsets[i].Ports {
					if port := &e.Subsets[i].Ports[j]; port.Protocol == "" {
						port.Protocol = corev1.ProtocolTCP
					}
				}
			}
		},
		Validate: func(_ context.Context, e *corev1.Endpoints) field.ErrorList { return validateEndpoints(e) },
		ValidateUpdate: func(_ context.Context, e, old *corev1.Endpoints) field.ErrorList {
			return tolerate(validateEndpoints(e), func() field.ErrorList { return validateEndpoints(old) })
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Endpoints", corev1.Endpoints{}.SwaggerDoc()["subsets"]),
			columns.AgeColumn(),
		},
		Cells: func(e *corev1.Endpoints) []any {
			return []any{e.Name, endpointsText(e), columns.Age(e.CreationTimestamp)}
		},
	}.Resource()
}

// endpointsText lists the first three ready addresses with their ports.
func endpointsText(e *corev1.Endpoints) string {
	const shown = 3
	if len(e.Subsets) == 0 {
		return columns.None
	}
	var all []string
	for i := range e.Subsets {
		s := &e.Subsets[i]
		if len(s.Ports) == 0 {
			for _, a := range s.Addresses {
				all = append(all, a.IP)
			}
		}
		for _, port := range s.Ports {
			for _, a := range s.Addresses {
				all = append(all, net.JoinHostPort(a.IP, strconv.Itoa(int(port.Port))))
			}
		}
	}
	if len(all) > shown {
		return fmt.Sprintf("%s + %d more...", strings.Join(all[:shown], ","), len(all)-shown)
	}
	return strings.Join(all, ",")
}

func validateEndpoints(e *corev1.Endpoints) field.ErrorList {
	var p problems
	for i := range e.Subsets {
		s, at := &e.Subsets[i], field.NewPath("subsets").Index(i)
		if len(s.Addresses) == 0 && len(s.NotReadyAddresses) == 0 {
			p.missing(at, "must specify `addresses` or `notReadyAddresses`")
		}
		for j := range s.Addresses {
			p.endpointAddress(at.Child("addresses").Index(j), &s.Addresses[j])
		}
		for j := range s.NotReadyAddresses {
			p.endpointAddress(at.Child("notReadyAddresses").Index(j), &s.NotReadyAddresses[j])
		}
		for j := range s.Ports {
			p.endpointPort(at.Child("ports").Index(j), &s.Ports[j], len(s.Ports) > 1)
		}
	}
	return p.list()
}

func (p *problems) endpointAddress(at *field.Path, a *corev1.EndpointAddress) {
	p.legacyIP(at.Child("ip"), a.IP)
	if a.Hostname != "" {
		p.dnsLabel(at.Child("hostname"), a.Hostname)
	}
	if a.NodeName != nil {
		p.invalids(at.Child("nodeName"), *a.NodeName, apivalidation.NameIsDNSSubdomain(*a.NodeName, false))
	}
	p.ordinaryIP(at.Child("ip"), a.IP)
}

func (p *problems) endpointPort(at *field.Path, port *corev1.EndpointPort, named bool) {
	if named && port.Name == "" {
		p.required(at.Child("name"))
	} else if port.Name != "" {
		p.dnsLabel(at.Child("name"), port.Name)
	}
	p.port(at.Child("port"), port.Port)
	oneOf(p, at.Child("protocol"), port.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
	if port.AppProtocol != nil {
		p.qualifiedName(at.Child("appProtocol"), *port.AppProtocol)
	}
}

// legacyIP checks an address in a field that once took ambiguous forms, such
// as leading zeros (KEP-4858). It tells whether the address is good.
func (p *problems) legacyIP(at *field.Path, ip string) (ok bool) {
	errs := validation.IsValidIPForLegacyField(at, ip, true, nil)
	p.add(errs)
	return len(errs) == 0
}

// legacyCIDR is legacyIP for address ranges.
func (p *problems) legacyCIDR(at *field.Path, cidr string) {
	p.add(validation.IsValidCIDRForLegacyField(at, cidr, true, nil))
}

// ordinaryIP refuses addresses that no service can be reached at, or that
// would reach something that belongs to the node alone.
func (p *problems) ordinaryIP(at *field.Path, value string) {
	ip := netutils.ParseIPSloppy(value)
	if ip == nil {
		p.invalid(at, value, "must be a valid IP address")
		return
	}
	if ip.IsUnspecified() {
		p.invalid(at, value, fmt.Sprintf("may not be unspecified (%v)", value))
	}
	if ip.IsLoopback() {
		p.invalid(at, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	}
	if ip.IsLinkLocalUnicast() {
		p.invalid(at, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	}
	if ip.IsLinkLocalMulticast() {
		p.invalid(at, value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	}
}
