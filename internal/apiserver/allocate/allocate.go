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
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
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
		ports     map[int32]claim
	}
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
	a.mu.ports = make(map[int32]claim)
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

// nodePortsOf returns the node ports of the Service's ports; a port is one
// Service's for all protocols.
func nodePortsOf(s *corev1.Service) []int32 {
	var out []int32
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, p.NodePort)
		}
	}
	return out
}

// portsOf returns all ports of nodes that are the Service's.
func portsOf(s *corev1.Service) []int32 {
	out := nodePortsOf(s)
	if p := s.Spec.HealthCheckNodePort; p != 0 {
		out = append(out, p)
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
		return invalid(s, errs...)
	}
	t := &transaction{Allocator: a, service: s, old: old, dry: at.DryRun, held: make(map[int32]bool)}
	for _, assign := range []func() error{t.assignAddresses, t.assignNodePorts, t.assignHealthCheckPort} {
		if err := assign(); err != nil {
			t.undo()
			return err
		}
	}
	return nil
}

func invalid(s *corev1.Service, errs ...*field.Error) error {
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
	service *corev1.Service
	// old is the Service before an update, nil when it is created.
	old *corev1.Service
	dry bool
	// addresses and ports are claimed for the Service by this transaction.
	addresses []netip.Addr
	ports     []int32
	// held are the ports that the Service has and those given to it now, in a
	// dry run, too.
	held map[int32]bool
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

// claimPort takes a port that the Service does not hold.
func (t *transaction) claimPort(p int32) error {
	if p < firstNodePort || p > lastNodePort {
		return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %d-%d", firstNodePort, lastNodePort)
	}
	owner := ownerOf(t.service)
	if t.held[p] || !t.free(t.mu.ports[p], owner) {
		return errors.New("provided port is already allocated")
	}
	t.held[p] = true
	if t.mu.ports[p].owner != owner && !t.dry {
		t.mu.ports[p] = claim{owner: owner, since: t.clock.Now()}
		t.ports = append(t.ports, p)
	}
	return nil
}

// keepsAddresses tells whether an update gives the Service no address: it has
// them, or none is due. If it asks for another, validation refuses that.
func (t *transaction) keepsAddresses() bool {
	if t.old == nil || t.old.Spec.Type == corev1.ServiceTypeExternalName {
		return false
	}
	headless := len(t.old.Spec.ClusterIPs) > 0 && t.old.Spec.ClusterIPs[0] == corev1.ClusterIPNone
	return headless || len(t.service.Spec.IPFamilies) <= len(t.old.Spec.IPFamilies)
}

// assignAddresses gives the Service an address of each of its families.
func (t *transaction) assignAddresses() error {
	s := t.service
	if s.Spec.Type == corev1.ServiceTypeExternalName || t.keepsAddresses() ||
		(len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone) {
		return nil
	}
	path := field.NewPath("spec", "clusterIPs")
	for i, family := range s.Spec.IPFamilies {
		if i < len(s.Spec.ClusterIPs) {
			if t.old != nil && slices.Contains(t.old.Spec.ClusterIPs, s.Spec.ClusterIPs[i]) {
				continue
			}
			if err := t.checkAddress(s.Spec.ClusterIPs[i]); err != nil {
				return invalid(s, field.Invalid(path, s.Spec.ClusterIPs, err.Error()))
			}
			continue
		}
		began := t.clock.Now()
		ip, from, ok := t.pickAddress(family)
		if !ok {
			t.metrics.failures.WithLabelValues(from.String(), scopeDynamic).Inc()
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: no %s address is left in the Service ranges", s.Name, family))
		}
		t.metrics.allocations.WithLabelValues(from.String(), scopeDynamic).Inc()
		t.metrics.duration.WithLabelValues(from.String()).Observe(t.clock.Since(began).Seconds())
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, ip.String())
	}
	if len(s.Spec.ClusterIPs) > 0 {
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	}
	return nil
}

func (t *transaction) checkAddress(text string) error {
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return fmt.Errorf("failed to allocate IP %s: %w", text, err)
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
			return fmt.Errorf("failed to allocate IP %s: provided IP is already allocated", text)
		}
		return nil
	}
	if !t.dry {
		return fmt.Errorf("failed to allocate IP %s: the provided network does not match the current range", text)
	}
	return fmt.Errorf("failed to allocate IP %s: the provided IP (%s) is not in the valid range. The range of valid IPs is %s", text, text, t.mu.ranges[0])
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

// assignNodePorts gives node ports to the ports that need one.
func (t *transaction) assignNodePorts() error {
	s := t.service
	if s.Spec.Type != corev1.ServiceTypeNodePort && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	allocate := s.Spec.Type == corev1.ServiceTypeNodePort || ptr.Deref(s.Spec.AllocateLoadBalancerNodePorts, true)
	if t.old != nil {
		return t.changeNodePorts(allocate)
	}
	// Ports of one number and different protocols share a node port.
	given := map[int32]int32{}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort == 0 && !allocate {
			continue
		}
		shared := given[p.Port]
		if shared == 0 {
			shared = requested(s.Spec.Ports, p.Port)
			p.NodePort = shared
		} else if p.NodePort == 0 || p.NodePort == shared {
			p.NodePort = shared
			continue
		}
		if err := t.assignPort(i, p); err != nil {
			return err
		}
		if given[p.Port] == 0 {
			given[p.Port] = p.NodePort
		}
	}
	return nil
}

// requested returns the node port that somebody asks for with this port.
func requested(ports []corev1.ServicePort, port int32) int32 {
	for _, p := range ports {
		if p.Port == port && p.NodePort != 0 {
			return p.NodePort
		}
	}
	return 0
}

// changeNodePorts claims what the Service did not have before the update.
func (t *transaction) changeNodePorts(allocate bool) error {
	had := nodePortsOf(t.old)
	for _, p := range portsOf(t.old) {
		t.held[p] = true
	}
	for i := range t.service.Spec.Ports {
		p := &t.service.Spec.Ports[i]
		if p.NodePort == 0 && !allocate || p.NodePort != 0 && slices.Contains(had, p.NodePort) {
			continue
		}
		if err := t.assignPort(i, p); err != nil {
			return err
		}
		had = append(had, p.NodePort)
	}
	return nil
}

// assignPort claims the node port that the i-th port asks for, or any.
func (t *transaction) assignPort(i int, p *corev1.ServicePort) error {
	if p.NodePort != 0 {
		if err := t.claimPort(p.NodePort); err != nil {
			return invalid(t.service, field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), p.NodePort, err.Error()))
		}
		return nil
	}
	port, ok := t.pickPort()
	if !ok {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: no port is left in %d-%d", firstNodePort, lastNodePort))
	}
	p.NodePort = port
	return nil
}

// assignHealthCheckPort gives a load balancer that wants local endpoints only
// the port at which each node tells if it has some.
func (t *transaction) assignHealthCheckPort() error {
	s := t.service
	if !core.NeedsHealthCheckPort(s) || t.old != nil && core.NeedsHealthCheckPort(t.old) {
		return nil
	}
	if port := s.Spec.HealthCheckNodePort; port != 0 {
		if err := t.claimPort(port); err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %d: %w", port, err))
		}
		return nil
	}
	port, ok := t.pickPort()
	if !ok {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a HealthCheck NodePort: no port is left in %d-%d", firstNodePort, lastNodePort))
	}
	s.Spec.HealthCheckNodePort = port
	return nil
}

func (t *transaction) pickPort() (int32, bool) {
	const n = lastNodePort - firstNodePort + 1
	start := rand.Int32N(n)
	for i := range int32(n) {
		p := firstNodePort + (start+i)%n
		if t.mu.ports[p].owner != ownerOf(t.service) && t.claimPort(p) == nil {
			return p, true
		}
	}
	return 0, false
}
