package networking

import (
	"context"
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

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
		Version:          "v1",
		New:              func() *networkingv1.Ingress { return &networkingv1.Ingress{} },
		NewList:          func() runtime.Object { return &networkingv1.IngressList{} },
		Prefix:           "/registry/ingress",
		HasStatus:        true,
		Generation:       true,
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsChanged, apis.AsNew},
		Validate:         validateIngress,
		ValidateUpdate: func(_ context.Context, i, old *networkingv1.Ingress) field.ErrorList {
			return validateIngressSpec(&i.Spec, toleratedIngress(&old.Spec))
		},
		ValidateStatusUpdate: validateIngressStatus,
		Warnings: func(_ context.Context, i, old *networkingv1.Ingress) []string {
			if _, found := i.Annotations[classAnnotation]; !found || i.Spec.IngressClassName != nil || old != nil {
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
	slices.Sort(addresses)
	ports := "80"
	if len(i.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	return []any{i.Name, class, hostsCell(i.Spec.Rules), strings.Join(slices.Compact(addresses), ","), ports, columns.Age(i.CreationTimestamp)}
}

// hostsCell names up to three hosts, and says how many rules there are more.
func hostsCell(rules []networkingv1.IngressRule) string {
	const most = 3
	var hosts []string
	for i := range rules {
		if len(hosts) == most {
			return fmt.Sprintf("%s + %d more...", strings.Join(hosts, ","), len(rules)-most)
		}
		if rules[i].Host != "" {
			hosts = append(hosts, rules[i].Host)
		}
	}
	if len(hosts) == 0 {
		return "*"
	}
	return strings.Join(hosts, ",")
}

// tolerance says what is let pass because it was let pass before.
type tolerance struct{ secretNames, wildcardRules bool }

// toleratedIngress returns what is wrong with a stored Ingress.
func toleratedIngress(s *networkingv1.IngressSpec) tolerance {
	var t tolerance
	for i := range s.TLS {
		t.secretNames = t.secretNames || len(validateSecretName(s.TLS[i].SecretName, nil)) > 0
	}
	for i := range s.Rules {
		t.wildcardRules = t.wildcardRules || strings.Contains(s.Rules[i].Host, "*") && len(validatePaths(s.Rules[i].HTTP, nil)) > 0
	}
	return t
}

func validateIngress(_ context.Context, i *networkingv1.Ingress) field.ErrorList {
	errs := validateIngressSpec(&i.Spec, tolerance{})
	if class, found := i.Annotations[classAnnotation]; found && i.Spec.IngressClassName != nil && class != *i.Spec.IngressClassName {
		errs = append(errs, field.Invalid(field.NewPath("annotations").Child(classAnnotation), class, "must match `ingressClassName` when both are specified"))
	}
	return errs
}

func validateIngressSpec(s *networkingv1.IngressSpec, t tolerance) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		errs = append(errs, field.Invalid(path, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		errs = append(errs, validateBackend(s.DefaultBackend, path.Child("defaultBackend"))...)
	}
	for i := range s.Rules {
		r, at := &s.Rules[i], path.Child("rules").Index(i)
		if r.Host != "" {
			errs = append(errs, validateNoAddress(r.Host, at.Child("host"))...)
			errs = append(errs, validateHost(r.Host, at.Child("host"))...)
		}
		if !t.wildcardRules || !strings.Contains(r.Host, "*") {
			errs = append(errs, validatePaths(r.HTTP, at.Child("http", "paths"))...)
		}
	}
	for i := range s.TLS {
		at := path.Child("tls").Index(i)
		for k, host := range s.TLS[i].Hosts {
			errs = append(errs, validateHost(host, at.Child("hosts").Index(k))...)
		}
		if !t.secretNames {
			errs = append(errs, validateSecretName(s.TLS[i].SecretName, at.Child("secretName"))...)
		}
	}
	if s.IngressClassName != nil {
		errs = append(errs, checks.Name(*s.IngressClassName, path.Child("ingressClassName"), utilvalidation.IsDNS1123Subdomain)...)
	}
	return errs
}

func validateSecretName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return nil
	}
	return checks.Name(name, path, utilvalidation.IsDNS1123Subdomain)
}

func validateHost(host string, path *field.Path) field.ErrorList {
	if strings.Contains(host, "*") {
		return checks.Name(host, path, utilvalidation.IsWildcardDNS1123Subdomain)
	}
	return checks.Name(host, path, utilvalidation.IsDNS1123Subdomain)
}

func validateNoAddress(host string, path *field.Path) field.ErrorList {
	if netutils.ParseIPSloppy(host) == nil {
		return nil
	}
	return field.ErrorList{field.Invalid(path, host, "must be a DNS name, not an IP address")}
}

func validatePaths(r *networkingv1.HTTPIngressRuleValue, path *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	if len(r.Paths) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	for i := range r.Paths {
		errs = append(errs, validateIngressPath(&r.Paths[i], path.Index(i))...)
	}
	return errs
}

func validateIngressPath(p *networkingv1.HTTPIngressPath, path *field.Path) field.ErrorList {
	if p.PathType == nil {
		return field.ErrorList{field.Required(path.Child("pathType"), "pathType must be specified")}
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
		return validateReference(b.Resource.APIGroup, b.Resource.Kind, b.Resource.Name, path.Child("resource"))
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

// validateIngressStatus tolerates addresses that the old status has.
func validateIngressStatus(_ context.Context, i, old *networkingv1.Ingress) field.ErrorList {
	var known []string
	for _, point := range old.Status.LoadBalancer.Ingress {
		known = append(known, point.IP)
	}
	var errs field.ErrorList
	path := field.NewPath("status", "loadBalancer", "ingress")
	for k, point := range i.Status.LoadBalancer.Ingress {
		at := path.Index(k)
		if point.IP != "" {
			errs = append(errs, utilvalidation.IsValidIPForLegacyField(at.Child("ip"), point.IP, true, known)...)
		}
		if point.Hostname != "" {
			errs = append(errs, checks.Name(point.Hostname, at.Child("hostname"), utilvalidation.IsDNS1123Subdomain)...)
			errs = append(errs, validateNoAddress(point.Hostname, at.Child("hostname"))...)
		}
	}
	return errs
}
