// Package dns answers the DNS questions of a node's pods: CoreDNS, linked in,
// with its Kubernetes plugin reading from the process's shared cache instead of
// from watches of its own. Names outside the cluster go to the node's own
// resolvers.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/caddy/caddyfile"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/cache"
	"github.com/coredns/coredns/plugin/forward"
	"github.com/coredns/coredns/plugin/kubernetes"
	"github.com/coredns/coredns/plugin/pkg/proxy"
	"github.com/coredns/coredns/plugin/pkg/transport"
	mdns "github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"skiff/internal/client"
)

// Config is what a Server needs.
type Config struct {
	// NodeName is whose EndpointSlice of the kube-dns Service the server keeps;
	// empty publishes nothing.
	NodeName string
	// Listen are the addresses for both UDP and TCP: the node's addresses on
	// the pod bridge, port 53.
	Listen []netip.AddrPort
	// Domain is the cluster's zone; empty means cluster.local.
	Domain string
	// Upstreams answer for names outside the cluster. When there are none, the
	// name servers in ResolvConf do; when that has none either, such questions
	// fail at once.
	Upstreams  []netip.AddrPort
	ResolvConf string
	Client     client.Set
	Log        *slog.Logger
}

// Server is one node's DNS server.
type Server struct {
	Config
	index *index
	ready chan struct{}
}

// New returns a Server that does not listen yet.
func New(c Config) *Server {
	if c.Domain == "" {
		c.Domain = "cluster.local"
	}
	return &Server{Config: c, index: newIndex(c.Client.Cache), ready: make(chan struct{})}
}

// Ready is closed when questions are answered.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run answers questions until ctx ends. It returns an error if it cannot
// listen or watch.
func (s *Server) Run(ctx context.Context) error {
	upstreams, err := s.upstreams()
	if err != nil {
		s.Log.Warn("names outside the cluster will not resolve", "err", err)
	}
	servers, stop, err := s.servers(upstreams)
	if err != nil {
		return err
	}
	defer stop()
	if err := s.index.watch(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	for i, at := range s.Listen {
		if err := serve(ctx, group, at, servers[i]); err != nil {
			cancel()
			return errors.Join(err, group.Wait())
		}
	}
	close(s.ready)
	if s.NodeName != "" {
		group.Go(func() error { return s.publish(ctx) })
	}
	return group.Wait()
}

// servers makes a server for each address, and a function that frees what they
// hold.
func (s *Server) servers(upstreams []netip.AddrPort) ([]*dnsserver.Server, func(), error) {
	chain, stop, err := s.chain(upstreams)
	if err != nil {
		return nil, nil, err
	}
	out := make([]*dnsserver.Server, len(s.Listen))
	for i, at := range s.Listen {
		out[i], err = dnsserver.NewServer(transport.DNS+"://"+at.String(), []*dnsserver.Config{{
			Zone: ".", Transport: transport.DNS, ListenHosts: []string{at.Addr().String()}, Plugin: chain,
		}})
		if err != nil {
			stop()
			return nil, nil, fmt.Errorf("DNS server: %w", err)
		}
	}
	return out, stop, nil
}

// serve starts to answer at one address.
func serve(ctx context.Context, group *errgroup.Group, at netip.AddrPort, server *dnsserver.Server) error {
	var lc net.ListenConfig
	packets, err := lc.ListenPacket(ctx, "udp", at.String())
	if err != nil {
		return fmt.Errorf("DNS server: %w", err)
	}
	streams, err := lc.Listen(ctx, "tcp", at.String())
	if err != nil {
		packets.Close()
		return fmt.Errorf("DNS server: %w", err)
	}
	unlessDone := func(err error) error {
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		return err
	}
	group.Go(func() error { return unlessDone(server.ServePacket(packets)) })
	group.Go(func() error { return unlessDone(server.Serve(streams)) })
	group.Go(func() error {
		<-ctx.Done()
		// Closing comes first: a graceful stop would wait for idle clients.
		return unlessDone(errors.Join(packets.Close(), streams.Close()))
	})
	return nil
}

// chain makes the handlers that a question passes: the cluster's zones, and for
// the rest a cache before the upstreams. What the cluster knows is answered
// from memory, so a cache before it could only be stale.
func (s *Server) chain(upstreams []netip.AddrPort) ([]plugin.Plugin, func(), error) {
	k, err := s.kubernetes()
	if err != nil {
		return nil, nil, err
	}
	chain := []plugin.Plugin{
		func(next plugin.Handler) plugin.Handler { return shuffle{next} },
		func(next plugin.Handler) plugin.Handler { k.Next = next; return k },
	}
	if len(upstreams) == 0 {
		return chain, func() {}, nil
	}
	f := forward.New()
	for _, u := range upstreams {
		f.SetProxy(proxy.NewProxy("forward", u.String(), transport.DNS))
	}
	chain = append(chain,
		func(next plugin.Handler) plugin.Handler { c := cache.New(); c.Next = next; return c },
		func(plugin.Handler) plugin.Handler { return f })
	return chain, func() { _ = f.OnShutdown() }, nil
}

// kubernetes makes the handler for the cluster's names. Its options can only
// be set in the words of a configuration file; these are the ones that kubeadm
// gives it.
func (s *Server) kubernetes() (*kubernetes.Kubernetes, error) {
	text := fmt.Sprintf(`kubernetes %s in-addr.arpa ip6.arpa {
		pods insecure
		fallthrough in-addr.arpa ip6.arpa
		ttl 30
	}`, s.Domain)
	c := &caddy.Controller{Dispenser: caddyfile.NewDispenser("kubernetes", strings.NewReader(text))}
	c.Next()
	k, err := kubernetes.ParseStanza(c)
	if err != nil {
		return nil, fmt.Errorf("DNS zone %s: %w", s.Domain, err)
	}
	k.APIConn = s.index
	return k, nil
}

// upstreams returns the servers for names outside the cluster, without those
// that are this server itself.
func (s *Server) upstreams() ([]netip.AddrPort, error) {
	list := s.Upstreams
	if len(list) == 0 && s.ResolvConf != "" {
		conf, err := mdns.ClientConfigFromFile(s.ResolvConf)
		if err != nil {
			return nil, fmt.Errorf("name servers of the node: %w", err)
		}
		for _, server := range conf.Servers {
			if addr, err := netip.ParseAddr(server); err == nil {
				list = append(list, netip.AddrPortFrom(addr, 53))
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(list), func(u netip.AddrPort) bool { return slices.Contains(s.Listen, u) }), nil
}

// retryDelay is how long a failed write to the API waits to be tried again.
const retryDelay = time.Second
