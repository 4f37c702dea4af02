// Package dynamicresources gives pods' resource claims devices (KEP-4381:
// structured parameters). What a node can give, upstream's allocator works out
// from the resource slices of the drivers.
//
// As with volumes a decision is worked out for each node, again when one was
// chosen, and then assumed until the API shows it.
package dynamicresources

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/client"
	"skiff/internal/scheduler/framework"
)

const name = "DynamicResources"

// features are what is on by default in v1.36.
var features = structured.Features{
	AdminAccess: true, PrioritizedList: true, PartitionableDevices: true, DeviceTaints: true, ConsumableCapacity: true,
	DeviceBindingAndStatus: true,
}

// keptExpressions is how many compiled selectors are remembered.
const keptExpressions = 100

// Plugin filters, reserves and prepares the binding. Make it with New.
type Plugin struct {
	*state
	// FilterTimeout limits the search for devices on one node; 0 does not.
	// BindingTimeout is how long a pod waits for its devices to be ready.
	FilterTimeout, BindingTimeout time.Duration
}

// state is what all profiles have in common.
type state struct {
	// Changes makes waiting pods look again. It is told when claims change.
	framework.Changes

	client client.Set
	clock  clock.WithTicker
	// expressions is made with the first claim: the compiler is large.
	expressions func() *cel.Cache

	mu struct {
		sync.Mutex
		// allocated are claims as they will be, by UID.
		allocated map[types.UID]*resourcev1.ResourceClaim
		// decided is what was decided for a pod, by its UID.
		decided map[types.UID]*decision
		// classes are the device classes by the extended resources that they stand
		// for; nil if they have to be looked for.
		classes map[corev1.ResourceName]string
	}
}

// decision is the claims of a pod as they will be.
type decision struct {
	claims []*resourcev1.ResourceClaim
	// extended is the claim to be made for extended resources, if one is needed;
	// mappings tell which container gets what of it.
	extended *resourcev1.ResourceClaim
	mappings []corev1.ContainerExtendedResourceRequest
}

// New returns the plugin, without timeouts.
func New(c client.Set, clk clock.WithTicker) *Plugin {
	s := &state{client: c, clock: clk, expressions: sync.OnceValue(func() *cel.Cache {
		return cel.NewCache(keptExpressions, cel.Features{EnableConsumableCapacity: features.ConsumableCapacity})
	})}
	s.mu.allocated = make(map[types.UID]*resourcev1.ResourceClaim)
	s.mu.decided = make(map[types.UID]*decision)
	return &Plugin{state: s}
}

// With returns the plugin with timeouts; what was decided by one is known to the
// other.
func (p *Plugin) With(filter, binding time.Duration) *Plugin {
	return &Plugin{state: p.state, FilterTimeout: filter, BindingTimeout: binding}
}

// Name returns the plugin's name.
func (*Plugin) Name() string { return name }

// PreEnqueue holds back pods whose claims have not been made yet: their status
// will name them.
func (*Plugin) PreEnqueue(pod *corev1.Pod) *framework.Status {
	for i := range pod.Spec.ResourceClaims {
		if _, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i]); err != nil {
			return unresolvable("%v", err)
		}
	}
	return nil
}

func unresolvable(format string, args ...any) *framework.Status {
	return framework.NewStatus(framework.Unresolvable, name, fmt.Sprintf(format, args...))
}

func failed(err error) *framework.Status {
	return framework.NewStatus(framework.Failed, name, err.Error())
}

// rule is what one pod's claims demand of a node.
type rule struct {
	// places are where devices are that were allocated already.
	places []place
	// broken are allocated claims whose devices did not become ready.
	broken []*resourcev1.ResourceClaim
	// claims are all of the pod's, open those without devices.
	claims, open []*resourcev1.ResourceClaim
	// extended is what the pod wants of devices without claims; nil if nothing.
	extended  *extended
	allocator structured.Allocator
	timeout   time.Duration
}

// place is where the devices of a claim are.
type place struct {
	claim *resourcev1.ResourceClaim
	*nodeaffinity.NodeSelector
}

// PreFilter makes the rule for pod.
func (p *Plugin) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	r, why := p.rule(pod.Pod)
	if r == nil || why != nil {
		return nil, why
	}
	return r, nil
}

// rule returns nil for pods that want no devices. Together with a status it
// returns what is known of the claims.
func (p *Plugin) rule(pod *corev1.Pod) (*rule, *framework.Status) {
	ctx := context.Background()
	wanted, err := p.extendedOf(ctx, pod)
	if err != nil {
		return nil, failed(err)
	}
	if len(pod.Spec.ResourceClaims) == 0 && wanted == nil {
		return nil, nil
	}
	r := &rule{extended: wanted, timeout: p.FilterTimeout}
	for i := range pod.Spec.ResourceClaims {
		claimName, own, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return nil, unresolvable("%v", err)
		}
		if claimName == nil {
			continue
		}
		claim, err := p.claim(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: *claimName})
		switch {
		case apierrors.IsNotFound(err):
			return nil, unresolvable("resourceclaim.resource.k8s.io %q not found", *claimName)
		case err != nil:
			return nil, failed(err)
		case claim.DeletionTimestamp != nil:
			return nil, unresolvable("resourceclaim %q is being deleted", claim.Name)
		}
		if own {
			if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
				return nil, unresolvable("%v", err)
			}
		}
		if why := p.add(r, pod, claim); why != nil {
			return nil, why
		}
	}
	if len(r.open) == 0 && r.extended == nil {
		return r, nil
	}
	if why := p.classesExist(ctx, r.open); why != nil {
		return r, why
	}
	if r.allocator, err = p.allocator(ctx); err != nil {
		return r, failed(err)
	}
	return r, nil
}

// add takes a claim in.
func (p *Plugin) add(r *rule, pod *corev1.Pod, claim *resourcev1.ResourceClaim) *framework.Status {
	r.claims = append(r.claims, claim)
	a := claim.Status.Allocation
	if a == nil {
		r.open = append(r.open, claim)
		return nil
	}
	if !reserved(claim, pod.UID) && len(claim.Status.ReservedFor) >= resourcev1.ResourceClaimReservedForMaxSize {
		return unresolvable("resourceclaim in use")
	}
	if ready, err := isReady(claim); err != nil || !ready && p.isLate(claim) {
		r.broken = append(r.broken, claim)
	}
	if a.NodeSelector != nil {
		s, err := nodeaffinity.NewNodeSelector(a.NodeSelector)
		if err != nil {
			return failed(err)
		}
		r.places = append(r.places, place{claim, s})
	}
	return nil
}

func reserved(claim *resourcev1.ResourceClaim, pod types.UID) bool {
	return slices.ContainsFunc(claim.Status.ReservedFor, func(c resourcev1.ResourceClaimConsumerReference) bool { return c.UID == pod })
}

// claim returns a claim as it will be.
func (p *Plugin) claim(ctx context.Context, key types.NamespacedName) (*resourcev1.ResourceClaim, error) {
	claim := &resourcev1.ResourceClaim{}
	if err := p.client.Cache.Get(ctx, key, claim, crclient.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	return p.assumed(claim), nil
}

func (p *Plugin) assumed(claim *resourcev1.ResourceClaim) *resourcev1.ResourceClaim {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.mu.allocated[claim.UID]; a != nil && claim.Status.Allocation == nil {
		return a
	}
	return claim
}

func (p *Plugin) classesExist(ctx context.Context, claims []*resourcev1.ResourceClaim) *framework.Status {
	for _, claim := range claims {
		for i := range claim.Spec.Devices.Requests {
			request := &claim.Spec.Devices.Requests[i]
			var classes []string
			if request.Exactly != nil {
				classes = append(classes, request.Exactly.DeviceClassName)
			}
			for j := range request.FirstAvailable {
				classes = append(classes, request.FirstAvailable[j].DeviceClassName)
			}
			for _, class := range classes {
				err := p.client.Cache.Get(ctx, types.NamespacedName{Name: class}, &resourcev1.DeviceClass{}, crclient.UnsafeDisableDeepCopy)
				switch {
				case apierrors.IsNotFound(err):
					return unresolvable("request %s: device class %s does not exist", request.Name, class)
				case err != nil:
					return failed(err)
				}
			}
		}
	}
	return nil
}

// allocator takes in what there is and what is taken.
func (p *Plugin) allocator(ctx context.Context) (structured.Allocator, error) {
	state, err := p.allocated(ctx)
	if err != nil {
		return nil, err
	}
	all, err := p.slices(ctx)
	if err != nil {
		return nil, err
	}
	return structured.NewAllocator(ctx, features, *state, classes{p.client.Cache}, all, p.expressions())
}

// allocated returns the devices that are taken, or will be.
func (p *Plugin) allocated(ctx context.Context) (*structured.AllocatedState, error) {
	var claims resourcev1.ResourceClaimList
	if err := p.client.Cache.List(ctx, &claims, crclient.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	state := &structured.AllocatedState{
		AllocatedDevices:         sets.New[structured.DeviceID](),
		AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity:       structured.NewConsumedCapacityCollection(),
	}
	for i := range claims.Items {
		take(state, p.assumed(&claims.Items[i]))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.mu.decided {
		if d.extended != nil {
			take(state, d.extended)
		}
	}
	return state, nil
}

// slices returns the devices that there are.
func (p *Plugin) slices(ctx context.Context) ([]*resourcev1.ResourceSlice, error) {
	var list resourcev1.ResourceSliceList
	if err := p.client.Cache.List(ctx, &list, crclient.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	all := make([]*resourcev1.ResourceSlice, len(list.Items))
	for i := range list.Items {
		all[i] = &list.Items[i]
	}
	return all, nil
}

// take notes the devices of a claim as taken. Access for administrators takes
// nothing away from others.
func take(state *structured.AllocatedState, claim *resourcev1.ResourceClaim) {
	if claim.Status.Allocation == nil {
		return
	}
	for _, result := range claim.Status.Allocation.Devices.Results {
		if ptr.Deref(result.AdminAccess, false) {
			continue
		}
		id := structured.MakeDeviceID(result.Driver, result.Pool, result.Device)
		if result.ShareID == nil {
			state.AllocatedDevices.Insert(id)
			continue
		}
		state.AllocatedSharedDeviceIDs.Insert(structured.MakeSharedDeviceID(id, result.ShareID))
		state.AggregatedCapacity.Insert(structured.NewDeviceConsumedCapacity(id, result.ConsumedCapacity))
	}
}

// classes reads device classes for the allocator.
type classes struct{ cache crclient.Reader }

func (c classes) List() ([]*resourcev1.DeviceClass, error) {
	var list resourcev1.DeviceClassList
	if err := c.cache.List(context.Background(), &list, crclient.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	out := make([]*resourcev1.DeviceClass, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
	}
	return out, nil
}

func (c classes) Get(name string) (*resourcev1.DeviceClass, error) {
	class := &resourcev1.DeviceClass{}
	return class, c.cache.Get(context.Background(), types.NamespacedName{Name: name}, class, crclient.UnsafeDisableDeepCopy)
}

// Removing pods from a node does not give their devices free at once, and so
// none of these can be helped by it.
var (
	notHere   = unresolvable("resourceclaim not available on the node")
	tooLittle = unresolvable("cannot allocate all claims")
	tooLate   = unresolvable("timed out trying to allocate devices")
)

// Filter implements framework.Filter.
func (r *rule) Filter(n *framework.NodeInfo) *framework.Status {
	_, why := r.allocate(context.Background(), n.Node)
	return why
}

// allocate returns what the pod's claims will be like on the node, or why it
// will not do.
func (r *rule) allocate(ctx context.Context, node *corev1.Node) (*decision, *framework.Status) {
	d := &decision{}
	open := r.open
	if r.extended != nil {
		if r.extended.stale != nil {
			return nil, staleClaim
		}
		if d.extended, d.mappings = r.extended.on(node); d.extended != nil {
			open = append(slices.Clip(open), d.extended)
		}
	}
	if len(r.broken) > 0 || slices.ContainsFunc(r.places, func(p place) bool { return !p.Match(node) }) {
		return nil, notHere
	}
	if len(open) == 0 {
		d.claims = r.claims
		return d, nil
	}
	if r.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.timeout)
		defer cancel()
	}
	results, err := r.allocator.Allocate(ctx, node, open)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, tooLate
	case errors.Is(err, structured.ErrFailedAllocationOnNode):
		return nil, unresolvable("%v", err)
	case err != nil:
		return nil, failed(err)
	case len(results) != len(open):
		return nil, tooLittle
	}
	if d.extended != nil {
		d.extended.Status.Allocation = &results[len(results)-1]
	}
	for _, claim := range r.claims {
		if i := slices.Index(r.open, claim); i >= 0 {
			claim = claim.DeepCopy()
			claim.Status.Allocation = &results[i]
		}
		d.claims = append(d.claims, claim)
	}
	return d, nil
}

// Cures reports whether devices may have come or become free.
func (*Plugin) Cures(pod *framework.PodInfo, e framework.Event) bool {
	switch e.Kind {
	case framework.DeviceChanged, framework.DeviceClassChanged, framework.NodeAdded, framework.NodeChanged:
		return len(pod.Spec.ResourceClaims) > 0 || len(pod.Requests.Scalar) > 0
	}
	return false
}
