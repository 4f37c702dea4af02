package networking

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
)

// classAnnotation named the class before spec.ingressClassName did.
const classAnnotation = "kubernetes.io/ingress.class"

func ingress() *apis.Resource {
	spec := networkingv1.IngressSpec{}.SwaggerDoc()
	return apis.Of[*networkingv1.Ingress]{
		Names: apis.Names{
			Group: "networking.k8s.io", Resource: "ingresses", Singular: "ingress", Kind: "Ingress",
			ShortNames: []string{"ing"},
			Namespaced: true,
		},
		Version:    "v1",
		New:        func() *networkingv1.Ingress { return &networkingv1.Ingress{} },
		NewList:    func() runtime.Object { return &networkingv1.IngressList{} },
		Prefix:     "/registry/ingress",
		HasStatus:  true,
		Generation: true,
		Validate:   validateIngress,
		ValidateUpdate: func(_ context.Context, i, _ *networkingv1.Ingress) field.ErrorList {
			return validateIngressSpec(&i.Spec)
		},
		ValidateStatusUpdate: validateIngressStatus,
		Warnings: func(_ context.Context, i, _ *networkingv1.Ingress) []string {
			if _, found := i.Annotations[classAnnotation]; !found {
				return nil
			}
			return []string{"annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"}
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Class", "The name of the IngressClass resource that should be used for additional configuration"),
			columns.String("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
			columns.String("Address", "Address is a list containing ingress points for the load-balancer"),
			columns.String("Ports", spec["tls"]),
			columns.AgeColumn(),
		},
		Cells: ingressCells,
	}.Resource()
}

func ingressCells(i *networkingv1.Ingress) []any {
	class := columns.None
	if i.Spec.IngressClassName != nil {
		class = *i.Spec.IngressClassName
	} else if named := i.Annotations[classAnnotation]; named != "" {
		class = named
	}
	var addresses []string
	for _, point := range i.Status.LoadBalancer.Ingress {
		if point.IP != "" {
			addresses = append(addresses, point.IP)
		} else if point.Hostname != "" {
			addresses = append(addresses, point.Hostname)
		}
	}
	ports := "80"
	if len(i.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	return []any{i.Name, class, hostsCell(i.Spec.Rules), strings.Join(addresses, ","), ports, columns.Age(i.CreationTimestamp)}
}

// hostsCell names up to three hosts.
func hostsCell(rules []networkingv1.IngressRule) string {
	const most = 3
	var hosts []string
	for i := range rules {
		if rules[i].Host != "" {
			hosts = append(hosts, rules[i].Host)
		}
	}
	switch {
	case len(hosts) == 0:
		return "*"
	case len(hosts) > most:
		return fmt.Sprintf("%s + %d more...", strings.Join(hosts[:most], ","), len(hosts)-most)
	}
	return strings.Join(hosts, ",")
}

func validateIngress(_ context.Context, i *networkingv1.Ingress) field.ErrorList {
	errs := validateIngressSpec(&i.Spec)
	if class, found := i.Annotations[classAnnotation]; found && i.Spec.IngressClassName != nil && class != *i.Spec.IngressClassName {
		errs = append(errs, field.Invalid(field.NewPath("annotations").Child(classAnnotation), class, "must match `ingressClassName` when both are specified"))
	}
	return errs
}

func validateIngressSpec(s *networkingv1.IngressSpec) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		errs = append(errs, field.Invalid(path, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		errs = append(errs, validateBackend(s.DefaultBackend, path.Child("defaultBackend"))...)
	}
	for i := range s.Rules {
		errs = append(errs, validateIngressRule(&s.Rules[i], path.Child("rules").Index(i))...)
	}
	for i := range s.TLS {
		at := path.Child("tls").Index(i)
		for k, host := range s.TLS[i].Hosts {
			errs = append(errs, validateHost(host, at.Child("hosts").Index(k))...)
		}
		if name := s.TLS[i].SecretName; name != "" {
			errs = append(errs, checks.Name(name, at.Child("secretName"), utilvalidation.IsDNS1123Subdomain)...)
		}
	}
	if s.IngressClassName != nil {
		errs = append(errs, checks.Name(*s.IngressClassName, path.Child("ingressClassName"), utilvalidation.IsDNS1123Subdomain)...)
	}
	return errs
}

func validateHost(host string, path *field.Path) field.ErrorList {
	if strings.Contains(host, "*") {
		return checks.Name(host, path, utilvalidation.IsWildcardDNS1123Subdomain)
	}
	return checks.Name(host, path, utilvalidation.IsDNS1123Subdomain)
}

func validateIngressRule(r *networkingv1.IngressRule, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Host != "" {
		if _, err := netip.ParseAddr(r.Host); err == nil {
			errs = append(errs, field.Invalid(path.Child("host"), r.Host, "must be a DNS name, not an IP address"))
		}
		errs = append(errs, validateHost(r.Host, path.Child("host"))...)
	}
	if r.HTTP == nil {
		return errs
	}
	paths := path.Child("http", "paths")
	if len(r.HTTP.Paths) == 0 {
		errs = append(errs, field.Required(paths, ""))
	}
	for i := range r.HTTP.Paths {
		errs = append(errs, validateIngressPath(&r.HTTP.Paths[i], paths.Index(i))...)
	}
	return errs
}

func validateIngressPath(p *networkingv1.HTTPIngressPath, path *field.Path) field.ErrorList {
	if p.PathType == nil {
		return append(field.ErrorList{field.Required(path.Child("pathType"), "pathType must be specified")}, validateBackend(&p.Backend, path.Child("backend"))...)
	}
	var errs field.ErrorList
	at := path.Child("path")
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(at, p.Path, "must be an absolute path"))
		}
		if p.Path == "" {
			break
		}
		for _, part := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, part) {
				errs = append(errs, field.Invalid(at, p.Path, fmt.Sprintf("must not contain '%s'", part)))
			}
		}
		for _, end := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, end) {
				errs = append(errs, field.Invalid(at, p.Path, fmt.Sprintf("cannot end with '%s'", end)))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(at, p.Path, "must be an absolute path"))
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("pathType"), *p.PathType,
			[]networkingv1.PathType{networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix}))
	}
	return append(errs, validateBackend(&p.Backend, path.Child("backend"))...)
}

func validateBackend(b *networkingv1.IngressBackend, path *field.Path) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(path, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		at := path.Child("resource")
		var errs field.ErrorList
		if ptr.Deref(b.Resource.APIGroup, "") != "" {
			errs = append(errs, checks.Name(*b.Resource.APIGroup, at.Child("apiGroup"), utilvalidation.IsDNS1123Subdomain)...)
		}
		errs = append(errs, checks.RequiredName(b.Resource.Kind, at.Child("kind"), pathSegment)...)
		return append(errs, checks.RequiredName(b.Resource.Name, at.Child("name"), pathSegment)...)
	case b.Service == nil:
		return field.ErrorList{field.Invalid(path, "", "resource or service backend is required")}
	}
	at := path.Child("service")
	errs := checks.RequiredName(b.Service.Name, at.Child("name"), func(name string) []string { return validation.NameIsDNSLabel(name, false) })
	switch port := b.Service.Port; {
	case port.Name != "" && port.Number != 0:
		errs = append(errs, field.Invalid(path, "", "cannot set both port name & port number"))
	case port.Name != "":
		errs = append(errs, checks.Name(port.Name, at.Child("port", "name"), utilvalidation.IsValidPortName)...)
	case port.Number != 0:
		for _, msg := range utilvalidation.IsValidPortNum(int(port.Number)) {
			errs = append(errs, field.Invalid(at.Child("port", "number"), port.Number, msg))
		}
	default:
		errs = append(errs, field.Required(path, "port name or number is required"))
	}
	return errs
}

func validateIngressStatus(_ context.Context, i, _ *networkingv1.Ingress) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status", "loadBalancer", "ingress")
	for k, point := range i.Status.LoadBalancer.Ingress {
		at := path.Index(k)
		if point.IP != "" {
			errs = append(errs, utilvalidation.IsValidIPForLegacyField(at.Child("ip"), point.IP, false, nil)...)
		}
		if point.Hostname != "" {
			errs = append(errs, checks.Name(point.Hostname, at.Child("hostname"), utilvalidation.IsDNS1123Subdomain)...)
			if _, err := netip.ParseAddr(point.Hostname); err == nil {
				errs = append(errs, field.Invalid(at.Child("hostname"), point.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}
