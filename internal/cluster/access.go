package cluster

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	apismetrics "skiff/internal/apis/metrics"
	"skiff/internal/apiserver"
	"skiff/internal/apiserver/aggregate"
	"skiff/internal/client"
	"skiff/internal/client/remote"
	"skiff/internal/identity"
	"skiff/internal/metrics"
)

// RESTConfig reaches the API over HTTP on behalf of a user.
func (p *ControlPlane) RESTConfig(u *identity.User) (*rest.Config, error) {
	cert, key, err := p.PKI.Admin.PEM()
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host: p.URL(), QPS: -1, WrapTransport: p.rest.wrap, Impersonate: rest.ImpersonationConfig{UserName: u.Name, Groups: u.Groups},
		TLSClientConfig: rest.TLSClientConfig{CAData: p.PKI.CA.PEM, CertData: cert, KeyData: key},
	}, nil
}

// foreign is what extension servers answer; it is reached over the API itself.
type foreign struct {
	*aggregate.Aggregator
	plane *ControlPlane
}

func (f foreign) Connect(ctx context.Context, u *identity.User) (client.Set, error) {
	config, err := f.plane.RESTConfig(u)
	if err != nil {
		return client.Set{}, err
	}
	return remote.Connect(ctx, config, f.plane.Scheme, remote.Options{}, f.plane.log)
}

// Kubelets reaches the kubelets with the API server's certificate.
func (p *ControlPlane) Kubelets() apiserver.NodeDialer { return p.kubelets }

// serveUsage serves the metrics API.
func (p *ControlPlane) serveUsage(ctx context.Context, c metrics.Config) error {
	collector := metrics.New(c)
	for _, d := range apismetrics.Resources(collector) {
		if _, err := p.Verbs.Add(ctx, d); err != nil {
			return err
		}
	}
	p.following.Go(func() { collector.Run(ctx) })
	return nil
}

// SecretToken makes the token of a Secret of a ServiceAccount, for the API
// server, which ends with the Secret.
func (p *ControlPlane) SecretToken(account *corev1.ServiceAccount, secret *corev1.Secret) (string, error) {
	return p.issuer.IssueForSecret(account, secret)
}
