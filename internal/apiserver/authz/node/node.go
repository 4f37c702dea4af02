// Package node decides what kubelets may do: by rules like everybody's, and for
// what belongs to pods (secrets, claims …) by whether a pod on that very node
// needs it ("Using Node Authorization" in upstream's documentation).
package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/selection"

	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/authz/follow"
	"skiff/internal/apiserver/authz/rbac"
	"skiff/internal/identity"
)

// Authorizer implements authz.Authorizer. Make it with New.
type Authorizer struct {
	graph *graph
	rules []rbacv1.PolicyRule
}

// New returns an authorizer that knows no pods yet. The rules (those of
// ClusterRole system:node) say what nodes may do beside reading what their
// pods need.
func New(rules []rbacv1.PolicyRule) *Authorizer {
	return &Authorizer{graph: newGraph(), rules: rules}
}

// Follow makes the authorizer follow the pods and volumes in c, and returns
// when it knows those that are there now.
func (z *Authorizer) Follow(ctx context.Context, c follow.Informers) error {
	return z.graph.follow(ctx, c)
}

// Name returns the name of the node that the user is; ok tells whether it is
// one at all.
func Name(u *identity.User) (name string, ok bool) {
	if u == nil || !u.InGroup(identity.GroupNodes) {
		return "", false
	}
	return strings.CutPrefix(u.Name, identity.NodePrefix)
}

// Authorize implements authz.Authorizer.
func (z *Authorizer) Authorize(_ context.Context, a *authz.Attributes) (authz.Decision, string, error) {
	name, ok := Name(a.User)
	if !ok {
		return authz.NoOpinion, "", nil
	}
	if name == "" {
		return authz.NoOpinion, fmt.Sprintf("unknown node for user %q", a.User.Name), nil
	}
	if a.IsResource() {
		if decide := z.deciders(a); decide != nil {
			if allowed, reason := decide(name, a); !allowed {
				return authz.NoOpinion, reason, nil
			}
			return authz.Allow, "", nil
		}
	}
	for i := range z.rules {
		if rbac.RuleAllows(&z.rules[i], a) {
			return authz.Allow, "", nil
		}
	}
	return authz.NoOpinion, "", nil
}

// RulesFor implements authz.RuleResolver: what a node may do depends on the
// pods that it has.
func (z *Authorizer) RulesFor(_ context.Context, u *identity.User, _ string) (authz.Rules, error) {
	if _, ok := Name(u); !ok {
		return authz.Rules{}, nil
	}
	return authz.Rules{Incomplete: true}, errors.New("node authorizer does not support user rule resolution")
}

// decider says whether a node may do what it asks; if not it may say why.
type decider func(node string, a *authz.Attributes) (allowed bool, reason string)

// deciders returns what decides about the resource, or nil if the rules do.
func (z *Authorizer) deciders(a *authz.Attributes) decider {
	switch a.Group {
	case "":
		switch a.Resource {
		case "secrets":
			return z.readNamespaced(secrets)
		case "configmaps":
			return z.readNamespaced(configMaps)
		case "persistentvolumeclaims":
			if a.Subresource == "status" {
				return z.updateStatus(claims)
			}
			return z.get(claims)
		case "persistentvolumes":
			return z.get(volumes)
		case "serviceaccounts":
			if a.Subresource == "token" {
				return z.createToken
			}
			return z.get(serviceAccounts)
		case "nodes":
			return ownNode
		case "pods":
			return z.pods
		}
	case "resource.k8s.io":
		switch a.Resource {
		case "resourceclaims":
			return z.get(resourceClaims)
		case "resourceslices":
			return resourceSlice
		}
	case "storage.k8s.io":
		switch a.Resource {
		case "volumeattachments":
			return z.get(attachments)
		case "csinodes":
			return csiNode
		}
	case "coordination.k8s.io":
		if a.Resource == "leases" {
			return lease
		}
	}
	return nil
}

func (z *Authorizer) related(node string, k kind, a *authz.Attributes) (bool, string) {
	if a.Name == "" {
		return false, "No Object name found"
	}
	if !z.graph.related(node, thing{k, a.Namespace, a.Name}) {
		return false, fmt.Sprintf("no relationship found between node '%s' and this object", node)
	}
	return true, ""
}

func (z *Authorizer) readNamespaced(k kind) decider {
	return func(node string, a *authz.Attributes) (bool, string) {
		switch {
		case !slices.Contains([]string{"get", "list", "watch"}, a.Verb):
			return false, "can only read resources of this type"
		case a.Subresource != "":
			return false, "cannot read subresource"
		case a.Namespace == "":
			return false, "can only read namespaced object of this type"
		}
		return z.related(node, k, a)
	}
}

func (z *Authorizer) get(k kind) decider {
	return func(node string, a *authz.Attributes) (bool, string) {
		switch {
		case a.Verb != "get":
			return false, "can only get individual resources of this type"
		case a.Subresource != "":
			return false, "cannot get subresource"
		}
		return z.related(node, k, a)
	}
}

func (z *Authorizer) updateStatus(k kind) decider {
	return func(node string, a *authz.Attributes) (bool, string) {
		if !slices.Contains([]string{"get", "update", "patch"}, a.Verb) {
			return false, "can only get/update/patch this type"
		}
		return z.related(node, k, a)
	}
}

func (z *Authorizer) createToken(node string, a *authz.Attributes) (bool, string) {
	if a.Verb != "create" {
		return false, "can only create tokens for individual service accounts"
	}
	return z.related(node, serviceAccounts, a)
}

// ownNode lets a node read its own object only; what it may write to which
// objects the NodeRestriction admission plug-in says.
func ownNode(node string, a *authz.Attributes) (bool, string) {
	switch a.Subresource + "/" + a.Verb {
	case "/create", "/update", "/patch", "status/update", "status/patch":
		return true, ""
	case "/get", "/list", "/watch":
		switch a.Name {
		case node:
			return true, ""
		case "":
			return false, fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", node)
		}
		return false, fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, a.Name)
	}
	return false, ""
}

func (z *Authorizer) pods(node string, a *authz.Attributes) (bool, string) {
	switch a.Subresource + "/" + a.Verb {
	case "/get":
		return z.related(node, pods, a)
	case "/list", "/watch":
		if selectsNode(node, a) {
			return true, ""
		}
		// A read of one pod, by its name.
		if allowed, _ := z.related(node, pods, a); allowed {
			return true, ""
		}
		return false, "can only list/watch pods with spec.nodeName field selector"
	case "/create", "/delete", "status/get", "status/update", "status/patch", "eviction/create":
		return true, ""
	}
	return false, ""
}

func selectsNode(node string, a *authz.Attributes) bool {
	for _, r := range a.FieldSelector {
		if r.Field == "spec.nodeName" && r.Operator == selection.Equals && r.Value == node {
			return true
		}
	}
	return false
}

func individual(verb string) bool {
	return slices.Contains([]string{"get", "create", "update", "patch", "delete"}, verb)
}

func lease(node string, a *authz.Attributes) (bool, string) {
	switch {
	case !individual(a.Verb):
		return false, "can only get, create, update, patch, or delete a node lease"
	case a.Namespace != corev1.NamespaceNodeLease:
		return false, fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	case a.Verb != "create" && a.Name != node:
		return false, "can only access node lease with the same name as the requesting node"
	}
	return true, ""
}

func csiNode(node string, a *authz.Attributes) (bool, string) {
	switch {
	case !individual(a.Verb):
		return false, "can only get, create, update, patch, or delete a CSINode"
	case a.Subresource != "":
		return false, "cannot authorize CSINode subresources"
	case a.Verb != "create" && a.Name != node:
		return false, "can only access CSINode with the same name as the requesting node"
	}
	return true, ""
}

func resourceSlice(node string, a *authz.Attributes) (bool, string) {
	switch {
	case a.Subresource != "":
		return false, "cannot authorize ResourceSlice subresources"
	case individual(a.Verb):
		return true, ""
	case slices.Contains([]string{"list", "watch", "deletecollection"}, a.Verb):
		if selectsNode(node, a) {
			return true, ""
		}
		return false, "can only list/watch/deletecollection resourceslices with spec.nodeName field selector"
	}
	return false, "can only get, create, update, patch, or delete a ResourceSlice"
}
