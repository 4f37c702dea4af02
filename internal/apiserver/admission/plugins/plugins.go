// Package plugins puts the admission plug-ins together, in upstream's order.
package plugins

import (
	"context"

	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/certificates"
	"skiff/internal/apiserver/admission/claimresize"
	"skiff/internal/apiserver/admission/escalation"
	"skiff/internal/apiserver/admission/ingressclass"
	"skiff/internal/apiserver/admission/lifecycle"
	"skiff/internal/apiserver/admission/limitranger"
	"skiff/internal/apiserver/admission/noderestriction"
	"skiff/internal/apiserver/admission/podsecurity"
	"skiff/internal/apiserver/admission/priority"
	"skiff/internal/apiserver/admission/resourcequota"
	"skiff/internal/apiserver/admission/runtimeclass"
	"skiff/internal/apiserver/admission/serviceaccount"
	"skiff/internal/apiserver/admission/storageclass"
	"skiff/internal/apiserver/admission/storageprotection"
	"skiff/internal/apiserver/admission/taints"
	"skiff/internal/apiserver/admission/tolerations"
	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/authz/follow"
	"skiff/internal/apiserver/authz/rbac"
)

// Deps are what the plug-ins need of the cluster.
type Deps struct {
	// Cache reads from memory; Informers tells its events (both are a
	// controller-runtime cache.Cache).
	Cache     client.Reader
	Informers follow.Informers
	// Live reads what the cache may not know yet. It acts as a member of
	// system:masters.
	Live client.Client
	// Authorizer decides about verbs that requests do not have of themselves
	// (bind, escalate, approve, sign); Rules knows who has which.
	Authorizer authz.Authorizer
	Rules      *rbac.Authorizer
	Clock      clock.Clock
}

// Default returns upstream's default plug-ins, when they know what they need.
func Default(ctx context.Context, d Deps) (admission.Chain, error) {
	accounts := serviceaccount.NewCached(d.Cache, d.Live, d.Clock)
	if err := accounts.Follow(ctx, d.Informers); err != nil {
		return nil, err
	}
	chain := admission.Chain{
		&lifecycle.Plugin{Cache: d.Cache, Live: d.Live},
		&limitranger.Plugin{Cache: d.Cache},
		&serviceaccount.Plugin{Accounts: accounts},
		&noderestriction.Plugin{Cache: d.Cache, Authorizer: d.Authorizer},
		taints.Plugin{},
		&podsecurity.Plugin{Cache: d.Cache},
		&priority.Plugin{Cache: d.Cache, Live: d.Live},
		tolerations.Plugin{},
		&storageclass.Plugin{Cache: d.Cache},
		&claimresize.Plugin{Cache: d.Cache},
		&runtimeclass.Plugin{Cache: d.Cache, Live: d.Live},
		&certificates.Approval{Authorizer: d.Authorizer},
		&certificates.Signing{Authorizer: d.Authorizer},
		certificates.Subject{},
		&ingressclass.Plugin{Cache: d.Cache},
		&escalation.Plugin{Rules: d.Rules, Authorizer: d.Authorizer},
		storageprotection.Plugin{},
	}
	// Quotas come last: what they count must not be refused any more.
	return append(chain, resourcequota.New(d.Cache, d.Clock)), nil
}
