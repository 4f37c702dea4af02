// Package allocate gives Services their cluster addresses and node ports. It
// is an admission plug-in, which runs when a Service has its name and nobody
// changes it any more: what it hands out is reserved at once and becomes the
// Service's when the Service is stored. With the Service, in one transaction,
// the IPAddress of each of its addresses is stored, so that no two servers give
// away the same one.
//
// Invariant: an address or port is never given to a second Service while the
// first is stored or on its way to be.
package allocate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	crcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apis/core"
	"skiff/internal/apiserver/admission"
)

// Node ports are taken from this range (upstream's default).
const (
	firstNodePort = 30000
	lastNodePort  = 32767
)

// pending is how long a reservation lasts for a Service that is not stored:
// longer than a write can take.
const pending = 2 * time.Minute

// Allocator implements admission.Completer and admission.Accountant for
// Services.
type Allocator struct {
	// base are the ranges that the server was started with.
	base    []netip.Prefix
	clock   clock.PassiveClock
	reader  client.Reader
	metrics *metrics

	mu struct {
		sync.Mutex
		// ranges are base and those of ServiceCIDRs in force, by their names.
		ranges    []netip.Prefix
		cidrs     map[string][]netip.Prefix
		addresses map[netip.Addr]claim
		ports     map[portKey]claim
	}
}

type portKey struct {
	port     int32
	protocol corev1.Protocol
}

// claim says who holds something; stored claims last until the Service goes,
// others until they are too old.
type claim struct {
	owner  string
	stored bool
	since  time.Time
}

// New makes an allocator of addresses in ranges, one for each family. Its
// metrics go to reg, if there is one.
func New(ranges []netip.Prefix, c clock.PassiveClock, reg prometheus.Registerer) *Allocator {
	a := &Allocator{base: ranges, clock: c, metrics: newMetrics(reg)}
	if reg != nil {
		reg.MustRegister(a)
	}
	a.mu.ranges = ranges
	a.mu.cidrs = make(map[string][]netip.Prefix)
	a.mu.addresses = make(map[netip.Addr]claim)
	a.mu.ports = make(map[portKey]claim)
	return a
}

// Follow learns of all Services, addresses and ranges until ctx ends; it
// returns when those that exist are known.
func (a *Allocator) Follow(ctx context.Context, c crcache.Cache) error {
	a.reader = c
	return errors.Join(
		follow(ctx, c, a.replaceRange),
		follow(ctx, c, a.replaceAddress),
		follow(ctx, c, a.replace),
	)
}

// follow calls replace with every change: old or obj is nil where there is
// none.
func follow[P interface {
	*T
	client.Object
}, T any](ctx context.Context, c crcache.Cache, replace func(old, obj P)) error {
	inf, err := c.GetInformer(ctx, P(new(T)))
	if err != nil {
		return err
	}
	reg, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { replace(nil, obj.(P)) },
		UpdateFunc: func(old, obj any) { replace(old.(P), obj.(P)) },
		DeleteFunc: func(obj any) {
			if o, ok := obj.(P); ok {
				replace(o, nil)
			}
		},
	})
	if err != nil {
		return err
	}
	select {
	case <-reg.HasSyncedChecker().Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func ownerOf(s *corev1.Service) string { return s.Namespace + "/" + s.Name }

func (a *Allocator) replace(old, s *corev1.Service) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old != nil {
		owner := ownerOf(old)
		for _, ip := range addressesOf(old) {
			if a.mu.addresses[ip].owner == owner {
				delete(a.mu.addresses, ip)
			}
		}
		for _, p := range portsOf(old) {
			if a.mu.ports[p].owner == owner {
				delete(a.mu.ports, p)
			}
		}
	}
	if s != nil {
		c := claim{owner: ownerOf(s), stored: true}
		for _, ip := range addressesOf(s) {
			a.mu.addresses[ip] = c
		}
		for _, p := range portsOf(s) {
			a.mu.ports[p] = c
		}
	}
}

func addressesOf(s *corev1.Service) []netip.Addr {
	var out []netip.Addr
	for _, text := range s.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil {
			out = append(out, ip)
		}
	}
	return out
}

func portsOf(s *corev1.Service) []portKey {
	var out []portKey
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, portKey{p.NodePort, p.Protocol})
		}
	}
	if p := s.Spec.HealthCheckNodePort; p != 0 {
		out = append(out, portKey{p, corev1.ProtocolTCP})
	}
	return out
}

// Complete implements admission.Completer.
func (a *Allocator) Complete(_ context.Context, at *admission.Attributes) error {
	if at.Resource.Group != "" || at.Resource.Names.Resource != "services" || at.Subresource != "" {
		return nil
	}
	if at.Operation != admission.Create && at.Operation != admission.Update {
		return nil
	}
	s := at.Object.(*corev1.Service)
	old, _ := at.Old.(*corev1.Service)
	a.mu.Lock()
	defer a.mu.Unlock()
	if errs := core.DefaultServiceFamilies(s, old, families(a.mu.ranges)); len(errs) > 0 {
		return invalid(s, errs)
	}
	t := &transaction{Allocator: a, service: s, dry: at.DryRun}
	t.assignAddresses()
	t.assignPorts()
	if len(t.errs) > 0 {
		t.undo()
		return invalid(s, t.errs)
	}
	return nil
}

func invalid(s *corev1.Service, errs field.ErrorList) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, errs)
}

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// transaction collects the claims made for one Service, so that they can be
// given back. Allocator.mu is held.
type transaction struct {
	*Allocator
	service   *corev1.Service
	dry       bool
	addresses []netip.Addr
	ports     []portKey
	errs      field.ErrorList
}

func (t *transaction) undo() {
	for _, ip := range t.addresses {
		delete(t.mu.addresses, ip)
	}
	for _, p := range t.ports {
		delete(t.mu.ports, p)
	}
}

// free reports whether c leaves its object to owner.
func (t *transaction) free(c claim, owner string) bool {
	return c.owner == "" || c.owner == owner || (!c.stored && t.clock.Since(c.since) > pending)
}

func (t *transaction) claimAddress(ip netip.Addr) bool {
	owner := ownerOf(t.service)
	if !t.free(t.mu.addresses[ip], owner) {
		return false
	}
	if t.mu.addresses[ip].owner != owner && !t.dry {
		t.mu.addresses[ip] = claim{owner: owner, since: t.clock.Now()}
		t.addresses = append(t.addresses, ip)
	}
	return true
}

func (t *transaction) claimPort(p portKey) bool {
	owner := ownerOf(t.service)
	if !t.free(t.mu.ports[p], owner) {
		return false
	}
	if t.mu.ports[p].owner != owner && !t.dry {
		t.mu.ports[p] = claim{owner: owner, since: t.clock.Now()}
		t.ports = append(t.ports, p)
	}
	return true
}

// assignAddresses gives the Service an address of each of its families.
func (t *transaction) assignAddresses() {
	s := t.service
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == corev1.ClusterIPNone ||
		(len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone) {
		return
	}
	path := field.NewPath("spec", "clusterIPs")
	for i, family := range s.Spec.IPFamilies {
		if i < len(s.Spec.ClusterIPs) && s.Spec.ClusterIPs[i] != "" {
			t.checkAddress(path.Index(i), s.Spec.ClusterIPs[i])
			continue
		}
		began := t.clock.Now()
		ip, from, ok := t.pickAddress(family)
		if !ok {
			t.metrics.failures.WithLabelValues(from.String(), scopeDynamic).Inc()
			t.errs = append(t.errs, field.InternalError(path.Index(i), fmt.Errorf("no %s address is left in the Service ranges", family)))
			return
		}
		t.metrics.allocations.WithLabelValues(from.String(), scopeDynamic).Inc()
		t.metrics.duration.WithLabelValues(from.String()).Observe(t.clock.Since(began).Seconds())
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs[:i], ip.String())
	}
	if len(s.Spec.ClusterIPs) > 0 {
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	}
}

func (t *transaction) checkAddress(path *field.Path, text string) {
	ip, err := netip.ParseAddr(text)
	if err != nil {
		// Validation says what is wrong with it.
		return
	}
	for _, r := range t.mu.ranges {
		if !r.Contains(ip) {
			continue
		}
		known := t.mu.addresses[ip].owner == ownerOf(t.service)
		if ok := t.claimAddress(ip); ok && !known {
			t.metrics.allocations.WithLabelValues(r.String(), scopeStatic).Inc()
		} else if !ok {
			t.metrics.failures.WithLabelValues(r.String(), scopeStatic).Inc()
			t.errs = append(t.errs, field.Invalid(path, text, fmt.Sprintf("failed to allocate IP %s: provided IP is already allocated", text)))
		}
		return
	}
	t.errs = append(t.errs, field.Invalid(path, text, fmt.Sprintf("failed to allocate IP %s: the provided IP is not in the valid range. The range of valid IPs is %s", text, t.mu.ranges[0])))
}

// reserved is how many addresses at the start of a range are kept for Services
// that ask for a certain one (KEP-3070): a sixteenth of the range, at least 16
// and at most 256.
func reserved(r netip.Prefix) uint64 {
	size := hosts(r)
	return min(max(size/16, min(16, size/2)), 256)
}

// hosts is how many addresses of the range can be handed out, at most 2^20.
func hosts(r netip.Prefix) uint64 {
	bits := min(r.Addr().BitLen()-r.Bits(), 20)
	return uint64(1)<<bits - 2
}

// pickAddress takes a random free address of the family, from the upper part
// of the range while there are any. It tells the range, too: the last one if
// none has an address left.
func (t *transaction) pickAddress(family corev1.IPFamily) (ip netip.Addr, from netip.Prefix, ok bool) {
	for _, r := range t.mu.ranges {
		if familyOf(r.Addr()) != family {
			continue
		}
		from = r
		size, low := hosts(r), reserved(r)
		if ip, ok := t.pickBetween(r, low+1, size); ok {
			return ip, r, true
		}
		if ip, ok := t.pickBetween(r, 1, low); ok {
			return ip, r, true
		}
	}
	return netip.Addr{}, from, false
}

// pickBetween tries every offset from first to last once, starting anywhere.
func (t *transaction) pickBetween(r netip.Prefix, first, last uint64) (netip.Addr, bool) {
	if last < first {
		return netip.Addr{}, false
	}
	n := last - first + 1
	start := rand.Uint64N(n)
	for i := range n {
		ip := offset(r.Addr(), first+(start+i)%n)
		if t.mu.addresses[ip].owner == ownerOf(t.service) {
			continue
		}
		if t.claimAddress(ip) {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// offset returns the address n after base; n is below 2^20.
func offset(base netip.Addr, n uint64) netip.Addr {
	raw := base.AsSlice()
	for i := len(raw) - 1; i >= 0 && n > 0; i-- {
		n += uint64(raw[i])
		raw[i] = byte(n)
		n >>= 8
	}
	ip, _ := netip.AddrFromSlice(raw)
	return ip
}

// assignPorts gives node ports to the ports that need one.
func (t *transaction) assignPorts() {
	s := t.service
	allocate := s.Spec.Type == corev1.ServiceTypeNodePort ||
		(s.Spec.Type == corev1.ServiceTypeLoadBalancer && (s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts))
	if s.Spec.Type != corev1.ServiceTypeNodePort && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	path := field.NewPath("spec", "ports")
	// Ports of one number and different protocols share a node port.
	given := map[int32]int32{}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort == 0 {
			continue
		}
		if !t.claimPort(portKey{p.NodePort, p.Protocol}) {
			t.errs = append(t.errs, field.Invalid(path.Index(i).Child("nodePort"), p.NodePort, "provided port is already allocated"))
		} else if p.NodePort < firstNodePort || p.NodePort > lastNodePort {
			t.errs = append(t.errs, field.Invalid(path.Index(i).Child("nodePort"), p.NodePort, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", firstNodePort, lastNodePort)))
		}
		given[p.Port] = p.NodePort
	}
	if !allocate {
		return
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort != 0 {
			continue
		}
		if port := given[p.Port]; port != 0 && t.claimPort(portKey{port, p.Protocol}) {
			p.NodePort = port
			continue
		}
		port, ok := t.pickPort(p.Protocol)
		if !ok {
			t.errs = append(t.errs, field.InternalError(path.Index(i).Child("nodePort"), fmt.Errorf("no node port is left in %d-%d", firstNodePort, lastNodePort)))
			return
		}
		p.NodePort, given[p.Port] = port, port
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && s.Spec.HealthCheckNodePort == 0 {
		if port, ok := t.pickPort(corev1.ProtocolTCP); ok {
			s.Spec.HealthCheckNodePort = port
		}
	}
}

func (t *transaction) pickPort(protocol corev1.Protocol) (int32, bool) {
	const n = lastNodePort - firstNodePort + 1
	start := rand.Int32N(n)
	for i := range int32(n) {
		p := portKey{firstNodePort + (start+i)%n, protocol}
		if t.mu.ports[p].owner == ownerOf(t.service) {
			continue
		}
		if t.claimPort(p) {
			return p.port, true
		}
	}
	return 0, false
}
