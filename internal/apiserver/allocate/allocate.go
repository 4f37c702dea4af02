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
	"net/netip"
	"sync"

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
		// ranges are base, then those of the ServiceCIDRs in force, which cidrs
		// has by their names.
		ranges    []netip.Prefix
		cidrs     map[string][]netip.Prefix
		addresses claims[netip.Addr]
		ports     claims[int32]
	}
}

// New makes an allocator of addresses in ranges, the first of each family
// before others. Its metrics go to reg, if there is one.
func New(ranges []netip.Prefix, c clock.PassiveClock, reg prometheus.Registerer) *Allocator {
	a := &Allocator{base: ranges, clock: c, metrics: newMetrics(reg)}
	if reg != nil {
		reg.MustRegister(a)
	}
	a.mu.ranges = ranges
	a.mu.cidrs = make(map[string][]netip.Prefix)
	a.mu.addresses = newClaims[netip.Addr](c)
	a.mu.ports = newClaims[int32](c)
	return a
}

// Follow learns of all Services, addresses and ranges until ctx ends; it
// returns when those that exist are known.
func (a *Allocator) Follow(ctx context.Context, c crcache.Cache) error {
	a.reader = c
	return errors.Join(
		follow(ctx, c, a.replaceRange),
		follow(ctx, c, a.replaceAddress),
		follow(ctx, c, a.replaceService),
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

// replaceService notes what a stored Service has.
func (a *Allocator) replaceService(old, s *corev1.Service) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old != nil {
		a.mu.addresses.drop(old.UID, addressesOf(old)...)
		a.mu.ports.drop(old.UID, portsOf(old)...)
	}
	if s != nil {
		a.mu.addresses.store(s.UID, addressesOf(s)...)
		a.mu.ports.store(s.UID, portsOf(s)...)
	}
}

// concerns tells whether a write is one that gives a Service addresses or ports.
func concerns(at *admission.Attributes) bool {
	return at.Is("", "services", "") && (at.Operation == admission.Create || at.Operation == admission.Update)
}

// Complete implements admission.Completer.
func (a *Allocator) Complete(_ context.Context, at *admission.Attributes) (undo func(), err error) {
	if !concerns(at) {
		return func() {}, nil
	}
	s := at.Object.(*corev1.Service)
	old, _ := at.Old.(*corev1.Service)
	a.mu.Lock()
	defer a.mu.Unlock()
	if errs := core.DefaultServiceFamilies(s, old, families(a.mu.ranges)); len(errs) > 0 {
		return nil, invalid(s, errs...)
	}
	t := &transaction{Allocator: a, service: s, old: old, dry: at.DryRun, held: make(map[int32]bool)}
	for _, assign := range []func() error{t.assignAddresses, t.assignNodePorts, t.assignHealthCheckPort} {
		if err := assign(); err != nil {
			t.undo()
			return nil, err
		}
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		t.undo()
	}, nil
}

func invalid(s *corev1.Service, errs ...*field.Error) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, errs)
}

// transaction collects what is reserved for one write of a Service, so that it
// can be given back. Its methods need the Allocator's lock.
type transaction struct {
	*Allocator
	service *corev1.Service
	// old is the Service before an update, nil when it is created.
	old *corev1.Service
	// dry runs reserve nothing.
	dry bool
	// cancels take back what was reserved.
	cancels []func()
	// held are the ports that the Service has and those given to it now, in a
	// dry run, too.
	held map[int32]bool
}

func (t *transaction) undo() {
	for _, cancel := range t.cancels {
		cancel()
	}
}

// reserve takes key for the transaction's Service.
func reserve[K comparable](t *transaction, from *claims[K], key K) {
	if !t.dry {
		t.cancels = append(t.cancels, from.reserve(t.service.UID, key))
	}
}
