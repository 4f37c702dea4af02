package networking

import (
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

func TestIngress(t *testing.T) {
	type ing = networkingv1.Ingress
	change := checkstest.Change[*ing]
	r := checkstest.Find(t, Resources(), "ingresses")
	valid := checkstest.Parse[*ing](t, r, `
metadata: {name: web, namespace: default}
spec:
  ingressClassName: nginx
  tls: [{hosts: [a.example.com], secretName: cert}]
  rules: [{host: a.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]
`)
	first := func(i *ing) *networkingv1.HTTPIngressPath { return &i.Spec.Rules[0].HTTP.Paths[0] }
	checkstest.Create(t, r, valid,
		change("nothing", func(i *ing) { i.Spec.Rules = nil }, "spec: Invalid value: either `defaultBackend` or `rules` must be specified"),
		change("address", func(i *ing) { i.Spec.Rules[0].Host = "1.2.3.4" }, "spec.rules[0].host: Invalid value: must be a DNS name, not an IP address"),
		change("no type", func(i *ing) { first(i).PathType = nil }, "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"),
		change("relative", func(i *ing) { first(i).Path = "a" }, "spec.rules[0].http.paths[0].path: Invalid value: must be an absolute path"),
		change("dots", func(i *ing) { first(i).Path = "/a/.." }, "spec.rules[0].http.paths[0].path: Invalid value: cannot end with '/..'"),
		change("no backend", func(i *ing) { first(i).Backend.Service = nil }, "spec.rules[0].http.paths[0].backend: Invalid value: resource or service backend is required"),
		change("no port", func(i *ing) { first(i).Backend.Service.Port.Number = 0 }, "spec.rules[0].http.paths[0].backend: Required value: port name or number is required"),
		change("other class", func(i *ing) { i.Annotations = map[string]string{classAnnotation: "traefik"} },
			"annotations.kubernetes.io/ingress.class: Invalid value: must match `ingressClassName` when both are specified"),
	)
	if got := r.Cells(valid); got[1] != "nginx" || got[2] != "a.example.com" || got[4] != "80, 443" {
		t.Errorf("shown as %v", got)
	}
}

func TestIngressClass(t *testing.T) {
	change := checkstest.Change[*networkingv1.IngressClass]
	r := checkstest.Find(t, Resources(), "ingressclasses")
	valid := checkstest.Parse[*networkingv1.IngressClass](t, r, "metadata: {name: x}\nspec: {controller: example.com/ctl, parameters: {kind: P, name: p}}")
	checkstest.Create(t, r, valid,
		change("namespace", func(c *networkingv1.IngressClass) { c.Spec.Parameters.Namespace = ptr.To("a") },
			"spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"),
		change("no namespace", func(c *networkingv1.IngressClass) { c.Spec.Parameters.Scope = ptr.To("Namespace") },
			"spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"),
	)
	checkstest.Update(t, r, valid,
		change("controller", func(c *networkingv1.IngressClass) { c.Spec.Controller = "example.com/b" }, "spec.controller: Invalid value: field is immutable"),
	)
}

func TestNetworkPolicy(t *testing.T) {
	type policy = networkingv1.NetworkPolicy
	change := checkstest.Change[*policy]
	r := checkstest.Find(t, Resources(), "networkpolicies")
	valid := checkstest.Parse[*policy](t, r, `
metadata: {name: web, namespace: default}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{ports: [{port: 80}], from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]
  egress: [{to: [{namespaceSelector: {}}]}]
`)
	if types := valid.Spec.PolicyTypes; len(types) != 2 || *valid.Spec.Ingress[0].Ports[0].Protocol != "TCP" {
		t.Errorf("wrong defaults: %+v", valid.Spec)
	}
	checkstest.Create(t, r, valid,
		change("port", func(p *policy) { p.Spec.Ingress[0].Ports[0].Port = ptr.To(intstr.FromInt32(0)) },
			"spec.ingress[0].ports[0].port: Invalid value: must be between 1 and 65535, inclusive"),
		change("end port", func(p *policy) { p.Spec.Ingress[0].Ports[0].EndPort = ptr.To[int32](79) },
			"spec.ingress[0].ports[0].endPort: Invalid value: must be greater than or equal to `port`"),
		change("no peer", func(p *policy) { p.Spec.Egress[0].To[0].NamespaceSelector = nil }, "spec.egress[0].to[0]: Required value: must specify a peer"),
		change("two peers", func(p *policy) { p.Spec.Egress[0].To[0].IPBlock = &networkingv1.IPBlock{CIDR: "10.0.0.0/8"} },
			"spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer"),
		change("except", func(p *policy) { p.Spec.Ingress[0].From[0].IPBlock.Except[0] = "11.0.0.0/16" },
			"spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: must be a strict subset of `cidr`"),
		change("type", func(p *policy) { p.Spec.PolicyTypes[0] = "Through" }, `spec.policyTypes[0]: Unsupported value: supported values: "Egress", "Ingress"`),
	)
}

func TestAddresses(t *testing.T) {
	address := checkstest.Change[*networkingv1.IPAddress]
	r := checkstest.Find(t, Resources(), "ipaddresses")
	for name, want := range map[string]string{
		"10.0.0.1": "", "fd00::1": "",
		"FD00::1": "must be a canonical format IP address", "10.0.0.01": "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
	} {
		got := ""
		if msgs := r.ValidateName(name, false); len(msgs) > 0 {
			got = msgs[0]
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	valid := checkstest.Parse[*networkingv1.IPAddress](t, r, "metadata: {name: 10.0.0.1}\nspec: {parentRef: {resource: services, namespace: default, name: web}}")
	checkstest.Create(t, r, valid,
		address("no parent", func(a *networkingv1.IPAddress) { a.Spec.ParentRef = nil }, "spec.parentRef: Required value: "),
		address("no name", func(a *networkingv1.IPAddress) { a.Spec.ParentRef.Name = "" }, "spec.parentRef.name: Required value: "),
	)
	checkstest.Update(t, r, valid,
		address("parent", func(a *networkingv1.IPAddress) { a.Spec.ParentRef.Name = "b" }, "spec.parentRef: Invalid value: field is immutable"),
	)

	cidr := checkstest.Change[*networkingv1.ServiceCIDR]
	r = checkstest.Find(t, Resources(), "servicecidrs")
	single := checkstest.Parse[*networkingv1.ServiceCIDR](t, r, "metadata: {name: x}\nspec: {cidrs: [10.96.0.0/16]}")
	checkstest.Create(t, r, single,
		cidr("none", func(c *networkingv1.ServiceCIDR) { c.Spec.CIDRs = nil }, "spec.cidrs: Required value: at least one CIDR required"),
		cidr("same family", func(c *networkingv1.ServiceCIDR) { c.Spec.CIDRs = append(c.Spec.CIDRs, "10.97.0.0/16") },
			"spec.cidrs: Invalid value: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96"),
	)
	checkstest.Update(t, r, single,
		cidr("added", func(c *networkingv1.ServiceCIDR) { c.Spec.CIDRs = append(c.Spec.CIDRs, "fd00::/108") }),
		cidr("changed", func(c *networkingv1.ServiceCIDR) { c.Spec.CIDRs[0] = "10.0.0.0/16" }, "spec.cidrs[0]: Invalid value: field is immutable"),
	)
}
