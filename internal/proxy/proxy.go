// Package proxy makes Services reachable on a node: packets to a Service's
// addresses are sent to its endpoints by nftables rules that this package keeps
// up to date. It speaks netlink to the kernel and needs no program.
//
// The wanted state is a pure function of Services, EndpointSlices and Node
// (compute.go, endpoints.go), held as a model (model.go, table.go), whose
// differences become one atomic batch (nft.go, rules.go).
package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/client"
)

// Config is what a Proxy needs.
type Config struct {
	// NodeName says which endpoints are on this node.
	NodeName string
	// NodeIPs are the addresses at which node ports answer.
	NodeIPs []netip.Addr
	// ClusterCIDRs are the ranges of pod addresses. A packet to a cluster
	// address from anywhere else is masqueraded, so that the answer comes back
	// through this node. Without ranges nothing is taken for an outsider.
	ClusterCIDRs []netip.Prefix
	Client       client.Set
	Log          *slog.Logger
	// Interval is the least time between two changes of the kernel's state
	// (default 10 ms). The first event after a quiet time is acted on at once,
	// what comes within the interval goes into the next change together.
	Interval time.Duration
	// Clock defaults to the real one.
	Clock clock.Clock
	// NetNS is a file descriptor of the network namespace to work in; zero is
	// the process's own.
	NetNS int
}

// Proxy keeps one node's rules.
type Proxy struct {
	Config
	kernel kernel
	health healthChecks
	synced chan struct{}
	wake   chan struct{}

	mu       sync.Mutex // protects the following
	node     node
	services map[types.NamespacedName]*corev1.Service
	slices   map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice
	dirty    map[types.NamespacedName]bool

	// Used by the loop alone.
	tables    [2]*table
	installed bool
	targets   map[types.NamespacedName]healthTarget
}

// New returns a Proxy that has done nothing yet.
func New(c Config) *Proxy {
	if c.Interval == 0 {
		c.Interval = 10 * time.Millisecond
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	return &Proxy{
		Config:   c,
		kernel:   kernel{netns: c.NetNS},
		health:   healthChecks{log: c.Log, listen: listenAny, servers: map[types.NamespacedName]*healthCheck{}},
		synced:   make(chan struct{}),
		wake:     make(chan struct{}, 1),
		node:     node{name: c.NodeName},
		services: map[types.NamespacedName]*corev1.Service{},
		slices:   map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice{},
		dirty:    map[types.NamespacedName]bool{},
		tables:   [2]*table{newTable(), newTable()},
		targets:  map[types.NamespacedName]healthTarget{},
	}
}

// Synced is closed when the kernel holds the rules for the first time.
func (p *Proxy) Synced() <-chan struct{} { return p.synced }

// Run keeps the rules until ctx ends. It leaves them in place then, so that
// Services work while the process restarts; Cleanup removes them. It returns an
// error only if it cannot watch.
func (p *Proxy) Run(ctx context.Context) error {
	defer p.health.close()
	if err := p.watch(ctx); err != nil {
		return err
	}
	// Looking through the tracked flows takes long on a busy node, so it must
	// not hold up the rules.
	stale := make(chan map[key][]netip.AddrPort, 1)
	defer close(stale)
	go func() {
		for front := range stale {
			p.forget(front)
		}
	}()
	var retry <-chan time.Time
	p.notify()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-retry:
		}
		began := p.Clock.Now()
		retry = nil
		front, err := p.sync()
		if err != nil {
			p.Log.Error("service rules not changed, trying again", "err", err)
			retry = p.Clock.After(time.Second)
		} else {
			p.announce()
		}
		if front != nil {
			// The newest state is the one that counts.
			select {
			case <-stale:
			default:
			}
			stale <- front
		}
		if rest := p.Interval - p.Clock.Since(began); rest > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-p.Clock.After(rest):
			}
		}
	}
}

func (p *Proxy) announce() {
	select {
	case <-p.synced:
	default:
		close(p.synced)
	}
}

// Cleanup removes everything that a Proxy has put into the kernel.
func (p *Proxy) Cleanup() error { return p.kernel.cleanup() }

// watch follows the objects that matter and returns when their present state
// has arrived.
func (p *Proxy) watch(ctx context.Context) error {
	var arrived []toolscache.DoneChecker
	for _, w := range []struct {
		obj    ctrlclient.Object
		change func(obj any, gone bool)
	}{
		{&corev1.Service{}, p.service},
		{&discoveryv1.EndpointSlice{}, p.slice},
		{&corev1.Node{}, p.nodeChanged},
	} {
		informer, err := p.Client.Cache.GetInformer(ctx, w.obj)
		if err != nil {
			return fmt.Errorf("watch for the service proxy: %w", err)
		}
		registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { w.change(o, false) },
			UpdateFunc: func(_, o any) { w.change(o, false) },
			DeleteFunc: func(o any) {
				if unknown, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
					o = unknown.Obj
				}
				w.change(o, true)
			},
		})
		if err != nil {
			return fmt.Errorf("watch for the service proxy: %w", err)
		}
		context.AfterFunc(ctx, func() { _ = informer.RemoveEventHandler(registration) })
		arrived = append(arrived, registration.HasSyncedChecker())
	}
	for _, a := range arrived {
		select {
		case <-a.Done():
		case <-ctx.Done():
		}
	}
	return nil
}

func (p *Proxy) service(obj any, gone bool) {
	s, ok := obj.(*corev1.Service)
	if !ok {
		return
	}
	name := types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
	p.mu.Lock()
	defer p.mu.Unlock()
	if gone {
		delete(p.services, name)
	} else {
		p.services[name] = s
	}
	p.mark(name)
}

func (p *Proxy) slice(obj any, gone bool) {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	service := s.Labels[discoveryv1.LabelServiceName]
	if service == "" || foreign(s.Labels) {
		return
	}
	name := types.NamespacedName{Namespace: s.Namespace, Name: service}
	p.mu.Lock()
	defer p.mu.Unlock()
	if gone {
		delete(p.slices[name], s.Name)
		if len(p.slices[name]) == 0 {
			delete(p.slices, name)
		}
	} else {
		if p.slices[name] == nil {
			p.slices[name] = map[string]*discoveryv1.EndpointSlice{}
		}
		p.slices[name][s.Name] = s
	}
	p.mark(name)
}

func (p *Proxy) nodeChanged(obj any, gone bool) {
	n, ok := obj.(*corev1.Node)
	if !ok || gone || n.Name != p.NodeName {
		return
	}
	zone := n.Labels[corev1.LabelTopologyZone]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.node.zone == zone {
		return
	}
	p.node.zone = zone
	for name := range p.services {
		p.mark(name)
	}
}

// mark says that a Service's rules must be computed anew. p.mu is held.
func (p *Proxy) mark(name types.NamespacedName) {
	p.dirty[name] = true
	p.notify()
}

func (p *Proxy) notify() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// sync brings the kernel from the last state to the present one. When UDP front
// ends have changed it returns where all of them may lead.
func (p *Proxy) sync() (map[key][]netip.AddrPort, error) {
	next, datagrams := p.compute()
	var changes [2]*change
	for i := range changes {
		changes[i] = p.tables[i].update(next[i])
	}
	if err := p.install(changes); err != nil {
		return nil, err
	}
	p.health.sync(p.targets)
	if !datagrams {
		return nil, nil
	}
	front := map[key][]netip.AddrPort{}
	for _, t := range p.tables {
		for _, part := range t.parts {
			for k, v := range part.datagrams {
				// Node ports have one key for both families.
				front[k] = append(front[k], v...)
			}
		}
	}
	return front, nil
}

func (p *Proxy) forget(front map[key][]netip.AddrPort) {
	if err := p.kernel.forgetDatagrams(front, p.NodeIPs); err != nil {
		p.Log.Warn("stale UDP flows may remain", "err", err)
	}
}

// install applies the changes; when that fails, someone else has changed the
// tables, so they are made anew.
func (p *Proxy) install(changes [2]*change) error {
	if p.installed {
		if changes[0].empty() && changes[1].empty() {
			return nil
		}
		err := p.kernel.apply(changes)
		if err == nil {
			return nil
		}
		p.Log.Warn("service rules are not as they were left, making them anew", "err", err)
	}
	err := p.kernel.replace(p.tables, p.ClusterCIDRs, p.NodeIPs)
	p.installed = err == nil
	return err
}

// compute returns the new parts of the Services that have changed, and whether
// one of them has other UDP endpoints than before.
func (p *Proxy) compute() (next [2]map[types.NamespacedName]*part, datagrams bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		next[i] = make(map[types.NamespacedName]*part, len(p.dirty))
		for name := range p.dirty {
			old := p.tables[i].parts[name]
			var now *part
			if svc := p.services[name]; svc != nil {
				now = p.node.compute(svc, ordered(p.slices[name]), family, old)
			}
			next[i][name] = now
			datagrams = datagrams || !sameDatagrams(old, now)
		}
	}
	for name := range p.dirty {
		delete(p.targets, name)
		svc := p.services[name]
		if svc != nil && proxied(svc) && svc.Spec.HealthCheckNodePort != 0 && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
			p.targets[name] = healthTarget{
				port:  int(svc.Spec.HealthCheckNodePort),
				count: p.node.localReady(svc, ordered(p.slices[name])),
			}
		}
	}
	clear(p.dirty)
	return next, datagrams
}

// ordered returns the slices by name, so that equal states give equal results.
func ordered(m map[string]*discoveryv1.EndpointSlice) []*discoveryv1.EndpointSlice {
	out := make([]*discoveryv1.EndpointSlice, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[name])
	}
	return out
}

func sameDatagrams(a, b *part) bool {
	var x, y map[key][]netip.AddrPort
	if a != nil {
		x = a.datagrams
	}
	if b != nil {
		y = b.datagrams
	}
	return maps.EqualFunc(x, y, slices.Equal)
}
