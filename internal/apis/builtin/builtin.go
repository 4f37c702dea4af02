// Package builtin puts the declarations of all built-in API groups together.
package builtin

import (
	"context"

	"skiff/internal/apis"
	"skiff/internal/apis/admissionregistration"
	"skiff/internal/apis/apiextensions"
	"skiff/internal/apis/apiregistration"
	"skiff/internal/apis/apps"
	"skiff/internal/apis/authentication"
	"skiff/internal/apis/authorization"
	"skiff/internal/apis/autoscaling"
	"skiff/internal/apis/batch"
	"skiff/internal/apis/certificates"
	"skiff/internal/apis/coordination"
	"skiff/internal/apis/core"
	"skiff/internal/apis/discovery"
	"skiff/internal/apis/flowcontrol"
	"skiff/internal/apis/networking"
	"skiff/internal/apis/node"
	"skiff/internal/apis/policy"
	"skiff/internal/apis/rbac"
	"skiff/internal/apis/resource"
	"skiff/internal/apis/scheduling"
	"skiff/internal/apis/storage"
	"skiff/internal/apiserver/authz"
)

// Hooks are the parts of a server that reviews and the validation of resource
// claims ask. What needs a missing one is refused with an internal error.
type Hooks struct {
	Authorizer authz.Authorizer
	Rules      authz.RuleResolver
	Tokens     authentication.TokenReviewer
	// Namespace returns the labels of a namespace.
	Namespace func(ctx context.Context, name string) (labels map[string]string, err error)
	// Params are who may read the parameters of policies.
	Params admissionregistration.Grants
	// Components are the parts of the control plane.
	Components []core.Component
	// Enabled tells whether an optional feature is on; nil: none is.
	Enabled func(gate string) bool
}

// Resources returns fresh declarations of every built-in resource.
func Resources(h Hooks) []*apis.Resource {
	var all []*apis.Resource
	for _, group := range [][]*apis.Resource{
		admissionregistration.Resources(h.Params),
		apiextensions.Resources(),
		apiregistration.Resources(),
		apps.Resources(),
		authentication.Resources(h.Tokens),
		authorization.Resources(h.Authorizer, h.Rules),
		autoscaling.Resources(),
		batch.Resources(),
		certificates.Resources(),
		coordination.Resources(),
		core.Resources(h.Components...),
		discovery.Resources(),
		flowcontrol.Resources(),
		networking.Resources(),
		node.Resources(),
		policy.Resources(),
		rbac.Resources(),
		resource.Resources(resource.Grants{Authorizer: h.Authorizer, Namespace: h.Namespace}),
		scheduling.Resources(),
		storage.Resources(),
	} {
		all = append(all, group...)
	}
	for _, r := range all {
		dropDisabled(r, h.Enabled)
	}
	return all
}
