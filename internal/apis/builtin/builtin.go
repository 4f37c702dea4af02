// Package builtin puts the declarations of all built-in API groups together.
package builtin

import (
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

// Hooks are the parts of a server that reviews ask. The reviews that need a
// missing one answer with an internal error.
type Hooks struct {
	Authorizer authz.Authorizer
	Rules      authorization.RuleResolver
	Tokens     authentication.TokenReviewer
}

// Resources returns fresh declarations of every built-in resource.
func Resources(h Hooks) []*apis.Resource {
	var all []*apis.Resource
	for _, group := range [][]*apis.Resource{
		admissionregistration.Resources(),
		apiextensions.Resources(),
		apiregistration.Resources(),
		apps.Resources(),
		authentication.Resources(h.Tokens),
		authorization.Resources(h.Authorizer, h.Rules),
		autoscaling.Resources(),
		batch.Resources(),
		certificates.Resources(),
		coordination.Resources(),
		core.Resources(),
		discovery.Resources(),
		flowcontrol.Resources(),
		networking.Resources(),
		node.Resources(),
		policy.Resources(),
		rbac.Resources(),
		resource.Resources(),
		scheduling.Resources(),
		storage.Resources(),
	} {
		all = append(all, group...)
	}
	return all
}
