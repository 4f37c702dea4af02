package cluster

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apis/admissionregistration"
	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/authz/node"
	"skiff/internal/apiserver/authz/privileged"
	"skiff/internal/apiserver/authz/rbac"
	"skiff/internal/apiserver/authz/structured"
)

// AuthorizationConfig says who may do what. The fields are named like
// kube-apiserver's flags.
type AuthorizationConfig struct {
	// AuthorizationModes are asked in this order: Node, RBAC, Webhook,
	// AlwaysAllow, AlwaysDeny (default Node, RBAC).
	AuthorizationModes []string
	// AuthorizationWebhook is asked in the mode Webhook.
	AuthorizationWebhook AuthorizationWebhook
	// AuthorizationConfigFile says so instead, and which webhooks are asked. It
	// is followed.
	AuthorizationConfigFile string
}

// AuthorizationWebhook says which webhook is asked, in which version of reviews
// (default v1beta1), and for how long its answers hold (default five minutes
// and 30 seconds; 0 s of --authorization-webhook-cache-* asks each time).
type AuthorizationWebhook struct {
	ConfigFile, Version                        string
	CacheAuthorizedTTL, CacheUnauthorizedTTL   time.Duration
	DontCacheAuthorized, DontCacheUnauthorized bool
}

func (w *AuthorizationWebhook) configuration() *apiserverv1.WebhookConfiguration {
	file := w.ConfigFile
	if file != "" {
		if absolute, err := filepath.Abs(file); err == nil {
			file = absolute
		}
	}
	keepAuthorized, keepUnauthorized := !w.DontCacheAuthorized, !w.DontCacheUnauthorized
	return &apiserverv1.WebhookConfiguration{
		AuthorizedTTL: metav1.Duration{Duration: w.CacheAuthorizedTTL}, UnauthorizedTTL: metav1.Duration{Duration: w.CacheUnauthorizedTTL},
		CacheAuthorizedRequests: &keepAuthorized, CacheUnauthorizedRequests: &keepUnauthorized,
		Timeout: metav1.Duration{Duration: 30 * time.Second}, FailurePolicy: apiserverv1.FailurePolicyNoOpinion,
		SubjectAccessReviewVersion: cmp.Or(w.Version, "v1beta1"),
		ConnectionInfo:             apiserverv1.WebhookConnectionInfo{Type: apiserverv1.AuthorizationWebhookConnectionInfoTypeKubeConfigFile, KubeConfigFile: &file},
	}
}

// authorizer returns what decides about requests. Members of system:masters
// are always allowed everything.
func (p *ControlPlane) authorizer(nodes *node.Authorizer, roles *rbac.Authorizer) (authz.Union, error) {
	c := p.Config.API.AuthorizationConfig
	decisions := authz.NewDecisions(p.Metrics)
	known := map[string]authz.Authorizer{"Node": decisions.Of("Node", "node", nodes), "RBAC": decisions.Of("RBAC", "rbac", roles)}
	chosen := &structured.Authorizer{}
	if file := c.AuthorizationConfigFile; file != "" {
		if len(c.AuthorizationModes) > 0 {
			return nil, errors.New("--authorization-config and --authorization-mode say the same thing: set one of them")
		}
		take := func() error {
			list, err := structured.Load(file, known)
			if err == nil {
				chosen.Set(list)
			}
			return err
		}
		if err := errors.Join(take(), p.reload.follow("authorization", file, take)); err != nil {
			return nil, err
		}
		return authz.Union{privileged.Authorizer{}, chosen}, nil
	}
	if len(c.AuthorizationModes) == 0 {
		return authz.Union{privileged.Authorizer{}, known["Node"], known["RBAC"]}, nil
	}
	list, err := structured.FromModes(c.AuthorizationModes, c.AuthorizationWebhook.configuration(), known)
	if err != nil {
		return nil, err
	}
	return append(authz.Union{privileged.Authorizer{}}, list...), nil
}

// namespaceLabels returns the labels of a namespace.
func (p *ControlPlane) namespaceLabels(ctx context.Context, name string) (map[string]string, error) {
	var namespace corev1.Namespace
	if err := p.Clients.Cache().Cache.Get(ctx, client.ObjectKey{Name: name}, &namespace, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	return namespace.Labels, nil
}

// params returns who may read the parameters of admission policies.
func (p *ControlPlane) params(authorizer authz.Authorizer) admissionregistration.Grants {
	read := func(ctx context.Context, name string, into client.Object) error {
		return p.Clients.Cache().Cache.Get(ctx, client.ObjectKey{Name: name}, into, client.UnsafeDisableDeepCopy)
	}
	return admissionregistration.Grants{
		Authorizer: authorizer,
		Resource: func(kind schema.GroupVersionKind) (string, bool) {
			r, _ := p.Verbs.LookupKind(kind)
			if r == nil {
				return "", false
			}
			return r.Names.Resource, true
		},
		ValidatingParams: func(ctx context.Context, policy string) (*admissionregistrationv1.ParamKind, error) {
			var v admissionregistrationv1.ValidatingAdmissionPolicy
			err := read(ctx, policy, &v)
			return v.Spec.ParamKind, err
		},
		MutatingParams: func(ctx context.Context, policy string) (*admissionregistrationv1.ParamKind, error) {
			var m admissionregistrationv1.MutatingAdmissionPolicy
			err := read(ctx, policy, &m)
			return m.Spec.ParamKind, err
		},
	}
}
