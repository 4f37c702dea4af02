// Package plugins puts the admission plug-ins together, in upstream's order.
package plugins

import (
	"context"
	"fmt"
	"slices"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apis/quota"
	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/always"
	"skiff/internal/apiserver/admission/alwayspull"
	"skiff/internal/apiserver/admission/antiaffinity"
	"skiff/internal/apiserver/admission/certificates"
	"skiff/internal/apiserver/admission/claimresize"
	"skiff/internal/apiserver/admission/declaredfeatures"
	"skiff/internal/apiserver/admission/escalation"
	"skiff/internal/apiserver/admission/eventratelimit"
	"skiff/internal/apiserver/admission/extendedresources"
	"skiff/internal/apiserver/admission/externalips"
	"skiff/internal/apiserver/admission/imagepolicy"
	"skiff/internal/apiserver/admission/ingressclass"
	"skiff/internal/apiserver/admission/lifecycle"
	"skiff/internal/apiserver/admission/limitranger"
	"skiff/internal/apiserver/admission/namespaces"
	"skiff/internal/apiserver/admission/noderestriction"
	"skiff/internal/apiserver/admission/nodeselector"
	"skiff/internal/apiserver/admission/ownerreferences"
	"skiff/internal/apiserver/admission/podresize"
	"skiff/internal/apiserver/admission/podsecurity"
	"skiff/internal/apiserver/admission/policy"
	"skiff/internal/apiserver/admission/priority"
	"skiff/internal/apiserver/admission/resourcequota"
	"skiff/internal/apiserver/admission/runtimeclass"
	"skiff/internal/apiserver/admission/serviceaccount"
	"skiff/internal/apiserver/admission/storageclass"
	"skiff/internal/apiserver/admission/storageprotection"
	"skiff/internal/apiserver/admission/taints"
	"skiff/internal/apiserver/admission/tolerationrestriction"
	"skiff/internal/apiserver/admission/tolerations"
	"skiff/internal/apiserver/admission/topologylabels"
	"skiff/internal/apiserver/admission/webhook"
	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/authz/follow"
	"skiff/internal/apiserver/authz/rbac"
	"skiff/internal/apiserver/cel"
	"skiff/internal/apiserver/verbs"
	webhookclient "skiff/internal/apiserver/webhook"
	"skiff/internal/store/cache"
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
	// Server is where webhooks and policies are registered; Webhooks calls
	// them.
	Server   *verbs.Server
	Webhooks *webhookclient.Client
	Metrics  *admission.Metrics
	// PodSecurity may be nil.
	PodSecurity *podsecurity.Metrics
	CEL         *cel.Metrics
}

// plugin is one of the list.
type plugin struct {
	// name is upstream's; without one the plug-in cannot be disabled.
	name string
	// off plug-ins have to be enabled.
	off bool
	new func() (any, error)
}

// idle is a plug-in that has nothing to do: those about PodGroups and Workloads,
// and about Jobs that have one, which v1.36 has only with alpha features that are
// not here. They can be named all the same.
type idle struct{}

// plugins returns the plug-ins in upstream's order.
func (d *Deps) plugins(ctx context.Context, conf configuration) []plugin {
	ready := func(p any) func() (any, error) { return func() (any, error) { return p, nil } }
	expressions := cel.NewAdmission(d.CEL)
	hooks := func(plugin, resource string) (webhook.Deps, error) {
		client, err := conf.webhooks(plugin, d.Webhooks)
		return webhook.Deps{
			Configurations: d.collection(admissionregistrationv1.GroupName, resource), Namespaces: d.namespace,
			Authorizer: d.Authorizer, Expressions: expressions, Client: client, Metrics: d.Metrics,
		}, err
	}
	policies := func(kind string) policy.Deps {
		return policy.Deps{
			Policies: d.collection(admissionregistrationv1.GroupName, kind+"admissionpolicies"),
			Bindings: d.collection(admissionregistrationv1.GroupName, kind+"admissionpolicybindings"),
			Server:   d.Server, Namespaces: d.namespace, Authorizer: d.Authorizer, Expressions: expressions, Metrics: d.Metrics,
		}
	}
	return []plugin{
		{name: "AlwaysAdmit", off: true, new: ready(always.Admit{})},
		{name: "NamespaceAutoProvision", off: true, new: ready(&namespaces.AutoProvision{Cache: d.Cache, Live: d.Live})},
		{name: "NamespaceLifecycle", new: ready(&lifecycle.Plugin{Cache: d.Cache, Live: d.Live})},
		{name: "NamespaceExists", off: true, new: ready(&namespaces.Exists{Cache: d.Cache, Live: d.Live})},
		{name: "LimitPodHardAntiAffinityTopology", off: true, new: ready(antiaffinity.Plugin{})},
		{name: "LimitRanger", new: ready(&limitranger.Plugin{Cache: d.Cache})},
		{name: "ServiceAccount", new: func() (any, error) {
			accounts := serviceaccount.NewCached(d.Cache, d.Live, d.Clock)
			return &serviceaccount.Plugin{Accounts: accounts}, accounts.Follow(ctx, d.Informers)
		}},
		{name: "NodeRestriction", new: ready(&noderestriction.Plugin{Cache: d.Cache, Authorizer: d.Authorizer})},
		{name: "TaintNodesByCondition", new: ready(taints.Plugin{})},
		{name: "AlwaysPullImages", off: true, new: ready(alwayspull.Plugin{})},
		{name: "ImagePolicyWebhook", off: true, new: func() (any, error) {
			var c imagepolicy.Configuration
			if err := conf.into("ImagePolicyWebhook", &c); err != nil {
				return nil, err
			}
			return imagepolicy.New(c)
		}},
		{name: "PodSecurity", new: func() (any, error) {
			var c podsecurity.Configuration
			if err := conf.into("PodSecurity", &c); err != nil {
				return nil, err
			}
			return podsecurity.New(d.Cache, c, d.PodSecurity)
		}},
		{name: "PodNodeSelector", off: true, new: func() (any, error) {
			var c nodeselector.Configuration
			if err := conf.into("PodNodeSelector", &c); err != nil {
				return nil, err
			}
			return nodeselector.New(d.namespace, c)
		}},
		{name: "Priority", new: ready(&priority.Plugin{Cache: d.Cache, Live: d.Live})},
		{name: "DefaultTolerationSeconds", new: ready(tolerations.Plugin{})},
		{name: "PodTolerationRestriction", off: true, new: func() (any, error) {
			p := &tolerationrestriction.Plugin{Namespaces: d.namespace, BestEffort: quota.BestEffort}
			return p, conf.into("PodTolerationRestriction", &p.Configuration)
		}},
		{name: "EventRateLimit", off: true, new: func() (any, error) {
			var c eventratelimit.Configuration
			if err := conf.into("EventRateLimit", &c); err != nil {
				return nil, err
			}
			return eventratelimit.New(c, d.Clock)
		}},
		{name: "ExtendedResourceToleration", off: true, new: ready(extendedresources.Plugin{})},
		{name: "DefaultStorageClass", new: ready(&storageclass.Plugin{Cache: d.Cache})},
		{name: "StorageObjectInUseProtection", new: ready(storageprotection.Plugin{})},
		{name: "PodGroupProtection", new: ready(idle{})},
		{name: "OwnerReferencesPermissionEnforcement", off: true, new: ready(&ownerreferences.Plugin{Authorizer: d.Authorizer, Mapper: d.Live.RESTMapper()})},
		{name: "PersistentVolumeClaimResize", new: ready(&claimresize.Plugin{Cache: d.Cache})},
		{name: "RuntimeClass", new: ready(&runtimeclass.Plugin{Cache: d.Cache, Live: d.Live})},
		{name: "CertificateApproval", new: ready(&certificates.Approval{Authorizer: d.Authorizer})},
		{name: "CertificateSigning", new: ready(&certificates.Signing{Authorizer: d.Authorizer})},
		{name: "ClusterTrustBundleAttest", new: ready(&certificates.Attest{Authorizer: d.Authorizer})},
		{name: "CertificateSubjectRestriction", new: ready(certificates.Subject{})},
		{name: "DefaultIngressClass", new: ready(&ingressclass.Plugin{Cache: d.Cache})},
		{name: "DenyServiceExternalIPs", off: true, new: ready(externalips.Plugin{})},
		{name: "PodTopologyLabels", new: ready(&topologylabels.Plugin{Cache: d.Cache})},
		{name: "PodGroupWorkloadExists", new: ready(idle{})},
		{name: "NodeDeclaredFeatureValidator", new: ready(declaredfeatures.New(d.Cache))},
		{name: "JobValidation", new: ready(idle{})},
		{name: "PodResizeValidator", new: ready(&podresize.Plugin{Cache: d.Cache})},
		// What refuses to give away rights that the requester lacks is no
		// plug-in of upstream's, but part of its API.
		{new: ready(&escalation.Plugin{Rules: d.Rules, Authorizer: d.Authorizer})},
		// Policies and webhooks see what all others made of the object; quotas come last,
		// because what they count must not be refused any more.
		{name: "MutatingAdmissionPolicy", new: func() (any, error) { return policy.NewMutating(policies("mutating")), nil }},
		{name: "MutatingAdmissionWebhook", new: func() (any, error) {
			deps, err := hooks("MutatingAdmissionWebhook", "mutatingwebhookconfigurations")
			return webhook.NewMutating(deps), err
		}},
		{name: "ValidatingAdmissionPolicy", new: func() (any, error) { return policy.NewValidating(policies("validating")), nil }},
		{name: "ValidatingAdmissionWebhook", new: func() (any, error) {
			deps, err := hooks("ValidatingAdmissionWebhook", "validatingwebhookconfigurations")
			return webhook.NewValidating(deps), err
		}},
		{name: "ResourceQuota", new: func() (any, error) {
			var c resourcequota.Configuration
			err := conf.into("ResourceQuota", &c)
			return resourcequota.New(d.Cache, d.Clock, c), err
		}},
		{name: "AlwaysDeny", off: true, new: ready(always.Deny{})},
	}
}

// New returns the plug-ins that are on by default, changed as c says.
func New(ctx context.Context, d Deps, c Config) (admission.Chain, error) {
	conf, err := c.read()
	if err != nil {
		return nil, err
	}
	all := d.plugins(ctx, conf)
	if err := c.check(names(all)); err != nil {
		return nil, err
	}
	var chain admission.Chain
	for _, p := range all {
		if p.name != "" && !slices.Contains(c.Enable, p.name) && (p.off || slices.Contains(c.Disable, p.name)) {
			continue
		}
		plugin, err := p.new()
		if err != nil {
			return nil, fmt.Errorf("admission plug-in %s: %w", p.name, err)
		}
		chain = append(chain, d.Metrics.Timed(p.name, plugin))
	}
	return admission.Chain{measured{chain, d.Metrics}}, nil
}

// measured is a chain whose time is taken.
type measured struct {
	admission.Chain
	metrics *admission.Metrics
}

func (m measured) Mutate(ctx context.Context, a *admission.Attributes) error {
	start := time.Now()
	err := m.Chain.Mutate(ctx, a)
	m.metrics.Step("admit", a, start, err)
	return err
}

func (m measured) Validate(ctx context.Context, a *admission.Attributes) error {
	start := time.Now()
	err := m.Chain.Validate(ctx, a)
	m.metrics.Step("validate", a, start, err)
	return err
}

func names(all []plugin) []string {
	var out []string
	for _, p := range all {
		if p.name != "" {
			out = append(out, p.name)
		}
	}
	return out
}

// collection returns the stored objects of a resource.
func (d *Deps) collection(group, resource string) *cache.Collection {
	return d.Server.Lookup(schema.GroupResource{Group: group, Resource: resource}).Collection
}

// namespace implements match.Namespaces.
func (d *Deps) namespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	c := d.collection("", "namespaces")
	if e := c.Get(c.Key("", name)); e != nil {
		obj, err := e.Object()
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		return obj.(*corev1.Namespace), nil
	}
	// Another server may have made it just now.
	ns := &corev1.Namespace{}
	return ns, d.Live.Get(ctx, client.ObjectKey{Name: name}, ns)
}
