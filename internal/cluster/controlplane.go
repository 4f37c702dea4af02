package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"skiff/internal/apis"
	"skiff/internal/apis/builtin"
	"skiff/internal/apiserver"
	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/plugins"
	"skiff/internal/apiserver/admission/podsecurity"
	"skiff/internal/apiserver/aggregate"
	"skiff/internal/apiserver/allocate"
	"skiff/internal/apiserver/audit"
	"skiff/internal/apiserver/authz/node"
	"skiff/internal/apiserver/authz/rbac"
	"skiff/internal/apiserver/cel"
	"skiff/internal/apiserver/crd"
	"skiff/internal/apiserver/endpoint"
	"skiff/internal/apiserver/openapi"
	"skiff/internal/apiserver/verbs"
	"skiff/internal/apiserver/weakcerts"
	"skiff/internal/apiserver/webhook"
	"skiff/internal/client/inprocess"
	"skiff/internal/cluster/bootstrap"
	"skiff/internal/cluster/pki"
	"skiff/internal/identity"
	"skiff/internal/metrics"
	"skiff/internal/serviceaccount"
	"skiff/internal/store"
	"skiff/internal/store/cache"
)

// ControlPlane is an API server over its store: what every other part talks
// to.
type ControlPlane struct {
	Config ServerConfig
	// Address is where the API server listens, with the real port.
	Address netip.AddrPort
	PKI     *pki.Bundle
	Verbs   *verbs.Server
	Clients *inprocess.Binding
	Scheme  *runtime.Scheme
	// Metrics are those of all parts of the process; the API server shows them.
	Metrics *prometheus.Registry

	cancel    context.CancelFunc
	following sync.WaitGroup
	engine    store.Engine
	listener  net.Listener
	server    *apiserver.Server
	closers   []io.Closer
	reload    reloader
	// staleValue tells values that are encrypted with an old key; nil where
	// nothing is encrypted.
	staleValue func(ctx context.Context, key string) bool
	issuer     *serviceaccount.Issuer
	proxies    bootstrap.FrontProxies
	kubelets   *kubelets
	rest       *restMetrics
	log        *slog.Logger
}

// issuerURL is the service account issuer and the API server's audience.
func issuerURL(domain string) string { return "https://kubernetes.default.svc." + domain }

// OpenControlPlane opens the store and puts the API server together; Run
// serves it. The port is bound when it returns.
func OpenControlPlane(ctx context.Context, c ServerConfig) (_ *ControlPlane, err error) {
	c = c.withDefaults()
	if err := c.API.check(); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", netip.AddrPortFrom(c.BindAddress, uint16(c.Port)).String())
	if err != nil {
		return nil, fmt.Errorf("the API server cannot listen on port %d: %w (is another server running? choose another port)", c.Port, err)
	}
	// What serves requests outlives ctx: those in flight finish first.
	opening := ctx
	ctx, cancel := context.WithCancel(context.WithoutCancel(opening))
	defer context.AfterFunc(opening, cancel)()
	p := &ControlPlane{Config: c, cancel: cancel, listener: listener, log: c.Log, Scheme: builtin.NewScheme(), Metrics: prometheus.NewRegistry()}
	p.Address = netip.AddrPortFrom(c.AdvertiseAddress, uint16(listener.Addr().(*net.TCPAddr).Port))
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	serviceIP := c.ServiceCIDR.Masked().Addr().Next()
	certificates := make(chan error, 1)
	go func() {
		var err error
		p.PKI, err = pki.Open(pki.Options{
			Dir: filepath.Join(c.DataDir, "pki"), Names: append([]string{c.Node.Name}, c.names()...),
			IPs: append([]netip.Addr{serviceIP, c.AdvertiseAddress}, c.addresses()...), ClusterDomain: c.Node.ClusterDomain,
		})
		certificates <- err
	}()
	p.engine, err = openEngine(opening, c)
	if certErr := <-certificates; certErr != nil {
		return nil, certErr
	}
	if err != nil {
		return nil, err
	}
	p.reload = reloader{log: c.Log, metrics: p.Metrics, server: serverLeaseName(c.Node.Name)}
	if err := p.encrypt(); err != nil {
		return nil, err
	}
	if err := p.assemble(ctx); err != nil {
		return nil, err
	}
	return p, p.reload.run(ctx)
}

func (p *ControlPlane) assemble(ctx context.Context) error {
	c, clk := p.Config, clock.RealClock{}
	p.rest = newRESTMetrics(p.Metrics)
	state := cache.New(p.engine, clk, c.Log)
	auditor, closers, err := c.API.auditor(clk, audit.NewMetrics(p.Metrics), func(err error) { c.Log.Error("auditing failed", "error", err) })
	if err != nil {
		return err
	}
	p.closers = append(p.closers, closers...)
	p.Verbs = verbs.New(verbs.Config{Engine: p.engine, Cache: state, Scheme: p.Scheme, Clock: clk, Log: c.Log, StaleValue: p.staleValue, Metrics: p.Metrics, Audit: auditor, Schemas: openapi.Schemas})

	tokens, err := p.accountTokens()
	if err != nil {
		return err
	}
	p.issuer = tokens.issuer
	if p.proxies, err = p.frontProxies(); err != nil {
		return err
	}
	p.kubelets = &kubelets{client: p.PKI.KubeletClient, roots: p.PKI.CA.Pool()}
	roles := rbac.New()
	nodeRules, err := bootstrap.NodeRules(c.API.FeatureGates.Enabled)
	if err != nil {
		return err
	}
	nodes := node.New(nodeRules)
	authorizer, err := p.authorizer(nodes, roles)
	if err != nil {
		return err
	}
	review := &tokenReviewer{audiences: tokens.audiences}
	declared := builtin.Resources(builtin.Hooks{
		Authorizer: authorizer, Rules: authorizer, Tokens: review, Namespace: p.namespaceLabels, Params: p.params(authorizer), Enabled: c.API.FeatureGates.Enabled,
		Components: p.components(clk),
	})
	for _, d := range c.API.RuntimeConfig.Select(declared, c.API.FeatureGates.Enabled) {
		serveTokens(d, serviceaccount.TokenCreate(tokens.issuer, tokens.audiences, clk, audit.Annotate))
		if _, err := p.Verbs.Add(ctx, d); err != nil {
			return err
		}
	}
	if err := state.Load(ctx); err != nil {
		return err
	}
	p.following.Go(func() {
		if err := state.Run(ctx); err != nil && ctx.Err() == nil {
			p.log.Error("the state can no longer be followed; restart the server", "error", err)
		}
	})
	go p.Verbs.Warm()
	extensions, err := aggregate.New(aggregate.Config{
		Verbs: p.Verbs, Resolver: endpoint.New(p.Verbs), Certificate: p.PKI.FrontProxyClient.GetClientCertificate, Clock: clk, Log: c.Log,
		WeakCerts: weakcerts.New(p.Metrics, "apiserver_kube_aggregator"),
	})
	if err != nil {
		return err
	}
	p.Clients = inprocess.Bind(ctx, p.Verbs, foreign{extensions, p}, c.Log)
	informers := p.Clients.Cache().Cache
	loopback := p.Clients.Set(ctx, identity.Loopback())
	if err := p.serveUsage(ctx, metrics.Config{Cache: informers, Kubelets: p.Kubelets(), Clock: clk, Log: c.Log.With("part", "metrics")}); err != nil {
		return err
	}

	addresses := allocate.New([]netip.Prefix{c.ServiceCIDR}, clk, p.Metrics)
	if err := errors.Join(roles.Follow(ctx, informers), nodes.Follow(ctx, informers), addresses.Follow(ctx, informers)); err != nil {
		return err
	}
	webhooks := webhook.New(endpoint.New(p.Verbs))
	webhooks.WeakCerts = weakcerts.New(p.Metrics, "apiserver_webhooks")
	expressions := cel.NewMetrics(p.Metrics)
	measures := admission.NewMetrics()
	chain, err := plugins.New(ctx, plugins.Deps{
		Cache: informers, Informers: informers, Live: loopback.Client, Authorizer: authorizer, Rules: roles, Clock: clk,
		Server: p.Verbs, Webhooks: webhooks, Metrics: measures, PodSecurity: podsecurity.NewMetrics(p.Metrics), CEL: expressions,
	}, c.API.Admission)
	if err != nil {
		return err
	}
	p.Verbs.SetPolicy(authorizer, admission.Chain{chain, addresses})

	extensions.Start(ctx)
	definitions, err := crd.Start(ctx, crd.Config{Verbs: p.Verbs, Webhooks: webhooks, Clock: clk, Log: c.Log, Metrics: crd.NewMetrics(p.Metrics), CEL: expressions})
	if err != nil {
		return err
	}

	authenticator, err := p.authenticator(tokens, review, clk, informers, loopback.Client)
	if err != nil {
		return err
	}
	documents, err := p.discovery(tokens)
	if err != nil {
		return err
	}
	fair, plain := c.API.flow(clk)
	if fair != nil {
		if err := fair.Follow(ctx, informers, loopback.Client, c.Log); err != nil {
			return err
		}
	}
	p.server = apiserver.New(apiserver.Config{
		Verbs: p.Verbs, Address: p.Address.String(), FlowControl: fair, InFlight: plain, Audit: auditor, Limits: c.API.Limits,
		Authenticator: authenticator, Handlers: documents, Registry: p.Metrics, Collectors: append(measures.Collectors(), extensions),
		Features: c.API.FeatureGates, DisabledMetrics: c.API.DisabledMetrics,
		OpenAPI: openapi.New(p.Verbs, extensions, clk), Extensions: extensions, Definitions: definitions,
		Nodes: p.kubelets,
		Clock: clk, Log: c.Log,
		Flags: map[string]string{
			"advertise-address": c.AdvertiseAddress.String(), "bind-address": c.BindAddress.String(), "secure-port": fmt.Sprint(p.Address.Port()),
			"service-cluster-ip-range": c.ServiceCIDR.String(), "service-account-issuer": tokens.issuers[0],
		},
	})
	return bootstrap.Ensure(ctx, loopback.Client, bootstrap.Options{
		ServiceCIDRs: []netip.Prefix{c.ServiceCIDR}, CA: p.PKI.CA.PEM, FrontProxies: p.proxies, Server: p.URL(), Enabled: c.API.FeatureGates.Enabled,
	})
}

// Drain makes /readyz say that the server is about to stop.
func (p *ControlPlane) Drain() { p.server.Drain() }

// URL is the API server's address for clients.
func (p *ControlPlane) URL() string { return "https://" + p.Address.String() }

// PreferredResources returns what is served, as discovery shows it; with an
// error there may be a part of the answer.
func (p *ControlPlane) PreferredResources(context.Context) ([]*metav1.APIResourceList, error) {
	return p.server.PreferredResources()
}

// Serves reports whether the API has that resource.
func (p *ControlPlane) Serves(group, resource string) bool {
	return p.Verbs.Lookup(schema.GroupResource{Group: group, Resource: resource}) != nil
}

// Run serves the API until ctx ends, then closes the store. Nothing may use
// the control plane afterwards.
func (p *ControlPlane) Run(ctx context.Context) error {
	defer p.close()
	go func() {
		if err := p.PKI.Run(ctx, p.log); err != nil && ctx.Err() == nil {
			p.log.Error("certificates are no longer renewed", "error", err)
		}
	}()
	if err := p.ensureKubernetesService(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	present, leave := context.WithCancel(ctx)
	var presence sync.WaitGroup
	presence.Go(func() { p.tellPresence(present) })
	defer presence.Wait()
	defer leave()
	clientCAs := p.PKI.CA.Pool()
	clientCAs.AppendCertsFromPEM(p.proxies.CA)
	return p.server.Serve(ctx, p.listener, &tls.Config{
		MinVersion: tls.VersionTLS12, GetCertificate: p.PKI.Serving.GetCertificate,
		// Certificates are asked for, verified by the authenticators.
		ClientAuth: tls.RequestClientCert, ClientCAs: clientCAs,
	})
}

func (p *ControlPlane) close() {
	p.cancel()
	p.listener.Close()
	p.following.Wait()
	if err := closeAll(p.closers); err != nil {
		p.log.Error("closing the audit log", "error", err)
	}
	if p.engine != nil {
		if err := p.engine.Close(); err != nil {
			p.log.Error("closing the store", "error", err)
		}
	}
}

// serveTokens completes the service accounts' declaration with what makes
// their tokens.
func serveTokens(d *apis.Resource, create func(context.Context, apis.Storage, string, string, runtime.Object, bool) (runtime.Object, error)) {
	if d.Group != "" || d.Names.Resource != "serviceaccounts" {
		return
	}
	for i := range d.Subresources {
		if d.Subresources[i].Name == "token" {
			d.Subresources[i].Kind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
			d.Subresources[i].New = func() runtime.Object { return &authenticationv1.TokenRequest{} }
			d.Subresources[i].Create = create
		}
	}
}

// names and addresses split TLSNames by kind.
func (c *ServerConfig) names() (out []string) {
	for _, n := range c.TLSNames {
		if _, err := netip.ParseAddr(n); err != nil {
			out = append(out, n)
		}
	}
	return out
}

func (c *ServerConfig) addresses() (out []netip.Addr) {
	for _, n := range c.TLSNames {
		if ip, err := netip.ParseAddr(n); err == nil {
			out = append(out, ip)
		}
	}
	return out
}
