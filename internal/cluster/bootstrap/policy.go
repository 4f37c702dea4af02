package bootstrap

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"path"

	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// policy holds what upstream's API server makes by itself, one object in each
// line, and in nodes.jsonl what lets machines join by a bootstrap token. What is
// there only with a feature has its gate beside kind, or in the rule.
//
//go:embed policy/*.jsonl
var policy embed.FS

// namespaces are there in every cluster, in the order in which they are made.
func namespaces() []string {
	return []string{corev1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease}
}

// desired returns all objects but the namespaces.
func desired(o Options) ([]client.Object, error) {
	objects, err := readPolicy(o.Enabled)
	if err != nil {
		return nil, err
	}
	if err := aggregate(objects); err != nil {
		return nil, err
	}
	for _, obj := range objects {
		if cidr, ok := obj.(*networkingv1.ServiceCIDR); ok {
			cidr.Spec.CIDRs = nil
			for _, prefix := range o.ServiceCIDRs {
				cidr.Spec.CIDRs = append(cidr.Spec.CIDRs, prefix.Masked().String())
			}
		}
	}
	info, err := clusterInfo(o)
	if err != nil {
		return nil, err
	}
	return append(objects, authenticationInfo(o), info), nil
}

// NodeRules returns the rules of ClusterRole system:node, which the Node
// authorizer goes by. enabled tells which optional features are on.
func NodeRules(enabled func(gate string) bool) ([]rbacv1.PolicyRule, error) {
	objects, err := readPolicy(enabled)
	if err != nil {
		return nil, err
	}
	for _, obj := range objects {
		if role, ok := obj.(*rbacv1.ClusterRole); ok && role.Name == "system:node" {
			return role.Rules, nil
		}
	}
	return nil, errors.New("policy: there is no ClusterRole system:node")
}

// readPolicy returns what there is with the features that are on.
func readPolicy(enabled func(gate string) bool) ([]client.Object, error) {
	files, err := policy.ReadDir("policy")
	if err != nil {
		return nil, err
	}
	var objects []client.Object
	for _, file := range files {
		data, err := policy.ReadFile(path.Join("policy", file.Name()))
		if err != nil {
			return nil, err
		}
		for line := range bytes.Lines(data) {
			obj, err := readObject(line, enabled)
			if err != nil {
				return nil, fmt.Errorf("policy/%s: %w", file.Name(), err)
			}
			if obj != nil {
				objects = append(objects, obj)
			}
		}
	}
	return objects, nil
}

// gated says with which feature an object, or one of its rules, is there.
type gated struct {
	Gate  string
	Kind  string
	Rules []struct{ Gate string }
}

// readObject returns nil if the object is of a feature that is off.
func readObject(line []byte, enabled func(gate string) bool) (client.Object, error) {
	on := func(gate string) bool { return gate == "" || enabled != nil && enabled(gate) }
	var g gated
	if err := json.Unmarshal(line, &g); err != nil || !on(g.Gate) {
		return nil, err
	}
	obj, err := newObject(g.Kind)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(line, obj); err != nil {
		return nil, err
	}
	if role, ok := obj.(*rbacv1.ClusterRole); ok {
		var rules []rbacv1.PolicyRule
		for i, rule := range role.Rules {
			if on(g.Rules[i].Gate) {
				rules = append(rules, rule)
			}
		}
		role.Rules = rules
	}
	return obj, nil
}

func newObject(kind string) (client.Object, error) {
	switch kind {
	case "ClusterRole":
		return &rbacv1.ClusterRole{}, nil
	case "ClusterRoleBinding":
		return &rbacv1.ClusterRoleBinding{}, nil
	case "Role":
		return &rbacv1.Role{}, nil
	case "RoleBinding":
		return &rbacv1.RoleBinding{}, nil
	case "FlowSchema":
		return &flowcontrolv1.FlowSchema{}, nil
	case "PriorityLevelConfiguration":
		return &flowcontrolv1.PriorityLevelConfiguration{}, nil
	case "PriorityClass":
		return &schedulingv1.PriorityClass{}, nil
	case "ServiceCIDR":
		return &networkingv1.ServiceCIDR{}, nil
	}
	return nil, fmt.Errorf("unknown kind %q", kind)
}

// aggregate fills the aggregated ClusterRoles from the others, so that they
// work before a controller has seen them. A role that is aggregated itself
// counts by its parts; each part counts once.
func aggregate(objects []client.Object) error {
	var roles []*rbacv1.ClusterRole
	for _, obj := range objects {
		if role, ok := obj.(*rbacv1.ClusterRole); ok {
			roles = append(roles, role)
		}
	}
	for _, role := range roles {
		if role.AggregationRule == nil {
			continue
		}
		seen := map[*rbacv1.ClusterRole]bool{}
		if err := gather(role, roles, seen); err != nil {
			return fmt.Errorf("ClusterRole %s: %w", role.Name, err)
		}
		for _, part := range roles {
			if seen[part] && part.AggregationRule == nil {
				role.Rules = append(role.Rules, part.Rules...)
			}
		}
	}
	return nil
}

// gather adds to seen all roles that role is made of.
func gather(role *rbacv1.ClusterRole, roles []*rbacv1.ClusterRole, seen map[*rbacv1.ClusterRole]bool) error {
	seen[role] = true
	if role.AggregationRule == nil {
		return nil
	}
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return err
		}
		for _, other := range roles {
			if !seen[other] && selector.Matches(labels.Set(other.Labels)) {
				if err := gather(other, roles, seen); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// authenticationInfo is where aggregated API servers learn whom to trust.
func authenticationInfo(o Options) *corev1.ConfigMap {
	list := func(names []string) string {
		// A list of strings has a JSON form.
		data, _ := json.Marshal(append([]string{}, names...))
		return string(data)
	}
	p := &o.FrontProxies
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "extension-apiserver-authentication"},
		Data: map[string]string{
			"client-ca-file":                     string(o.CA),
			"requestheader-client-ca-file":       string(p.CA),
			"requestheader-allowed-names":        list(p.AllowedNames),
			"requestheader-username-headers":     list(p.Username),
			"requestheader-uid-headers":          list(p.UID),
			"requestheader-group-headers":        list(p.Group),
			"requestheader-extra-headers-prefix": list(p.ExtraPrefix),
		},
	}
}

// clusterInfo is what a machine that wants to join may read without being
// known: where the API server is, and its authority.
func clusterInfo(o Options) (*corev1.ConfigMap, error) {
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters[""] = &clientcmdapi.Cluster{Server: o.Server, CertificateAuthorityData: o.CA}
	data, err := clientcmd.Write(*kubeconfig)
	if err != nil {
		return nil, err
	}
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespacePublic, Name: "cluster-info"},
		Data:       map[string]string{"kubeconfig": string(data)},
	}, nil
}
