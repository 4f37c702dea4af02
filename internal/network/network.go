// Package network connects the pods of a node with each other, with those of
// other nodes and with the outside. A Manager makes the node's bridge and keeps
// routes to the pod ranges of all other nodes; pods are attached to the bridge
// by the CNI plugin in package cni, for which the Manager writes the
// configuration. Everything is done through netlink; no program is needed.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	toolscache "k8s.io/client-go/tools/cache"

	"skiff/internal/client"
)

// Backends: how packets get to other nodes.
const (
	// BackendAuto takes plain routes to nodes on the same network segment and
	// VXLAN to others.
	BackendAuto = "auto"
	// BackendHostGW takes plain routes only; every node must be on the segment.
	BackendHostGW = "host-gw"
	// BackendVXLAN takes VXLAN for all nodes.
	BackendVXLAN = "vxlan"
)

// Config is what a Manager needs.
type Config struct {
	NodeName string
	// NodeIPs are the node's addresses, at most one of each family. Packets to
	// other nodes leave through the interface that has the first.
	NodeIPs []netip.Addr
	// ClusterCIDRs are the ranges from which all nodes get their pod ranges.
	ClusterCIDRs []netip.Prefix
	// ServiceCIDRs are the ranges of Service addresses. They get a route, so
	// that processes on the node reach Services even without a default route.
	ServiceCIDRs []netip.Prefix
	// Backend is one of the Backend constants; empty means BackendAuto.
	Backend string
	// CNIConfDir is where the container runtime looks for its network
	// configuration, usually /etc/cni/net.d.
	CNIConfDir string
	// BridgeName defaults to skiff0.
	BridgeName string
	// DataDir holds the record of pod addresses in use.
	DataDir string
	Client  client.Set
	Log     *slog.Logger
	// NetNS is a file descriptor of the network namespace to work in; zero is
	// the process's own.
	NetNS int
}

// Manager keeps one node's part of the pod network.
type Manager struct {
	Config
	wake  chan struct{}
	ready chan struct{}

	mu    sync.Mutex // protects the following
	nodes map[string]peer
	own   []netip.Prefix
}

// New returns a Manager that has done nothing yet. It fails on an unknown
// backend.
func New(c Config) (*Manager, error) {
	if c.BridgeName == "" {
		c.BridgeName = "skiff0"
	}
	switch c.Backend {
	case "":
		c.Backend = BackendAuto
	case BackendAuto, BackendHostGW, BackendVXLAN:
	default:
		return nil, fmt.Errorf("network backend %q is not known: use %s, %s or %s", c.Backend, BackendAuto, BackendHostGW, BackendVXLAN)
	}
	if len(c.NodeIPs) == 0 {
		return nil, errors.New("the network needs the node's address")
	}
	return &Manager{
		Config: c,
		wake:   make(chan struct{}, 1),
		ready:  make(chan struct{}),
		nodes:  map[string]peer{},
	}, nil
}

// Ready is closed when the bridge with its addresses is there and pods can be
// attached.
func (m *Manager) Ready() <-chan struct{} { return m.ready }

// Gateways returns the node's addresses on the bridge, at which pods reach the
// node. There are none before Ready.
func (m *Manager) Gateways() []netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []netip.Addr
	for _, p := range m.own {
		out = append(out, gateway(p))
	}
	return out
}

// Run keeps the network until ctx ends. It leaves everything in place then, so
// that pods keep their connections while the process restarts; Cleanup removes
// it. It returns an error only if it cannot watch.
func (m *Manager) Run(ctx context.Context) error {
	if err := m.watchNodes(ctx); err != nil {
		return err
	}
	if err := m.watchKernel(ctx); err != nil {
		return err
	}
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-retry:
		}
		retry = nil
		if err := m.sync(); err != nil {
			m.Log.Error("pod network not as wanted, trying again", "err", err)
			retry = time.After(time.Second)
		}
	}
}

// sync brings the kernel's state to the wanted one.
func (m *Manager) sync() error {
	m.mu.Lock()
	self, known := m.nodes[m.NodeName]
	peers := make([]peer, 0, len(m.nodes))
	for name, p := range m.nodes {
		if name != m.NodeName {
			peers = append(peers, p)
		}
	}
	m.mu.Unlock()
	if !known || len(self.cidrs) == 0 {
		return nil // An event says when the node has got its range.
	}
	k, err := m.open()
	if err != nil {
		return err
	}
	defer k.Close()
	up, err := k.uplink(m.NodeIPs)
	if err != nil {
		return err
	}
	bridge, err := k.bridge(m.BridgeName, m.mtu(up), self.cidrs)
	if err != nil {
		return err
	}
	p := m.plan(self, peers, up)
	if err := k.routes(p, up, bridge, m.tunnelName()); err != nil {
		return err
	}
	if err := m.masquerade(self.cidrs); err != nil {
		return err
	}
	if err := m.writeConf(self.cidrs, m.mtu(up)); err != nil {
		return err
	}
	m.mu.Lock()
	m.own = self.cidrs
	m.mu.Unlock()
	select {
	case <-m.ready:
	default:
		close(m.ready)
	}
	return nil
}

func (m *Manager) watchNodes(ctx context.Context) error {
	informer, err := m.Client.Cache.GetInformer(ctx, &corev1.Node{})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { m.node(o, false) },
		UpdateFunc: func(_, o any) { m.node(o, false) },
		DeleteFunc: func(o any) {
			if unknown, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = unknown.Obj
			}
			m.node(o, true)
		},
	})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = informer.RemoveEventHandler(registration) })
	select {
	case <-registration.HasSyncedChecker().Done():
	case <-ctx.Done():
	}
	return nil
}

// node takes in an event. Most are heartbeats that change nothing here.
func (m *Manager) node(obj any, gone bool) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, had := m.nodes[n.Name]
	if gone {
		delete(m.nodes, n.Name)
	} else {
		p := peerOf(n)
		if had && p.equal(old) {
			return
		}
		m.nodes[n.Name] = p
	}
	m.notify()
}

func (m *Manager) notify() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}
