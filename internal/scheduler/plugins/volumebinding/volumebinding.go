// Package volumebinding puts pods where their volumes are or can be, and sees
// to it that volumes are bound before the pod is.
//
// A decision for a node is worked out while nodes are compared, again when one
// was chosen (Reserve), and then assumed: until the API shows it, others see
// the volumes as given away. It is written, and its end awaited, when the pod
// is bound.
package volumebinding

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/client"
	"skiff/internal/scheduler/framework"
)

const name = "VolumeBinding"

// Plugin filters, reserves and prepares the binding. Make it with New.
type Plugin struct {
	*state
	// BindTimeout is how long a pod waits for its volumes.
	BindTimeout time.Duration
}

// state is what all profiles have in common.
type state struct {
	// Changes makes waiting pods look again. It is told when volumes and claims
	// change and when pods and nodes go.
	framework.Changes

	client client.Set
	clock  clock.WithTicker

	mu struct {
		sync.Mutex
		// volumes are those given to claims, as they will be; nodes are those
		// chosen for claims whose volume is to be made.
		volumes map[string]*corev1.PersistentVolume
		nodes   map[types.NamespacedName]string
		// decided is what is to be done for a pod, by its UID.
		decided map[types.UID]*decision
	}
}

// New returns the plugin, without a timeout.
func New(c client.Set, clk clock.WithTicker) *Plugin {
	p := &state{client: c, clock: clk}
	p.mu.volumes = make(map[string]*corev1.PersistentVolume)
	p.mu.nodes = make(map[types.NamespacedName]string)
	p.mu.decided = make(map[types.UID]*decision)
	return &Plugin{state: p}
}

// With returns the plugin with a timeout; what was decided by one is known to
// the other.
func (p *Plugin) With(timeout time.Duration) *Plugin { return &Plugin{p.state, timeout} }

// Name returns the plugin's name.
func (*Plugin) Name() string { return name }

// ClaimName returns the claim that a volume of the pod uses, or nothing.
func ClaimName(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return ephemeral.VolumeClaimName(pod, v)
	}
	return ""
}

// PreFilter makes the rule for pod: no node will do while a claim cannot be
// bound whatever the node.
func (p *Plugin) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	r, why := p.rule(pod.Pod)
	if r == nil || why != nil {
		return nil, why
	}
	return r, nil
}

func (p *Plugin) rule(pod *corev1.Pod) (*rule, *framework.Status) {
	ctx := context.Background()
	var r *rule
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		claimName := ClaimName(pod, v)
		if claimName == "" {
			continue
		}
		if r == nil {
			r = &rule{p: p, classes: map[string]*storagev1.StorageClass{}}
		}
		claim, err := p.claim(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: claimName})
		if err == nil && v.Ephemeral != nil {
			err = ephemeral.VolumeIsForPod(pod, claim)
		}
		switch {
		case apierrors.IsNotFound(err) && v.Ephemeral != nil:
			return nil, unresolvable("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", claimName)
		case apierrors.IsNotFound(err):
			return nil, unresolvable("persistentvolumeclaim %q not found", claimName)
		case err != nil:
			return nil, unresolvable("%v", err)
		case claim.Status.Phase == corev1.ClaimLost:
			return nil, unresolvable("persistentvolumeclaim %q bound to non-existent persistentvolume %q", claim.Name, claim.Spec.VolumeName)
		case claim.DeletionTimestamp != nil:
			return nil, unresolvable("persistentvolumeclaim %q is being deleted", claim.Name)
		}
		if why := r.add(ctx, claim); why != nil {
			return nil, why
		}
	}
	if r != nil && len(r.unbound) > 0 {
		if err := r.load(ctx); err != nil {
			return nil, framework.NewStatus(framework.Failed, name, err.Error())
		}
	}
	return r, nil
}

func unresolvable(format string, args ...any) *framework.Status {
	return framework.NewStatus(framework.Unresolvable, name, fmt.Sprintf(format, args...))
}

// claim returns a claim as it will be.
func (p *Plugin) claim(ctx context.Context, key types.NamespacedName) (*corev1.PersistentVolumeClaim, error) {
	claim := &corev1.PersistentVolumeClaim{}
	if err := p.client.Cache.Get(ctx, key, claim, crclient.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	p.mu.Lock()
	node := p.mu.nodes[key]
	p.mu.Unlock()
	if node != "" && claim.Annotations[volume.AnnSelectedNode] == "" {
		claim = withNode(claim, node)
	}
	return claim, nil
}

func withNode(claim *corev1.PersistentVolumeClaim, node string) *corev1.PersistentVolumeClaim {
	claim = claim.DeepCopy()
	if claim.Annotations == nil {
		claim.Annotations = map[string]string{}
	}
	claim.Annotations[volume.AnnSelectedNode] = node
	return claim
}

// bound reports whether the claim has its volume.
func bound(claim *corev1.PersistentVolumeClaim) bool {
	_, completed := claim.Annotations[volume.AnnBindCompleted]
	return completed && claim.Spec.VolumeName != ""
}

// Cures reports whether the event is about the pod's volumes, or about nodes
// that they may be on.
func (*Plugin) Cures(pod *framework.PodInfo, e framework.Event) bool {
	switch e.Kind {
	case framework.NodeAdded, framework.NodeChanged:
		return true
	case framework.VolumeChanged:
		return e.Claim == "" || Uses(pod.Pod, e.Namespace, e.Claim)
	}
	return false
}

// Uses reports whether the pod uses the claim.
func Uses(pod *corev1.Pod, namespace, claim string) bool {
	if pod.Namespace != namespace {
		return false
	}
	for i := range pod.Spec.Volumes {
		if ClaimName(pod, &pod.Spec.Volumes[i]) == claim {
			return true
		}
	}
	return false
}

// waits reports whether the class binds its claims when a pod uses them.
func waits(class *storagev1.StorageClass) bool {
	return class != nil && ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) == storagev1.VolumeBindingWaitForFirstConsumer
}
