package volumebinding

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/scheduler/framework"
)

// errLate is upstream's word for volumes that do not come in time.
var errLate = errors.New("timed out waiting for the condition")

// Reserve gives the pod's claims their volumes, as far as this scheduler is
// concerned.
func (p *Plugin) Reserve(pod *framework.PodInfo, node string) *framework.Status {
	r, why := p.rule(pod.Pod)
	if r == nil || why != nil {
		return why
	}
	n := &corev1.Node{}
	if err := p.client.Cache.Get(context.Background(), types.NamespacedName{Name: node}, n, crclient.UnsafeDisableDeepCopy); err != nil {
		return framework.NewStatus(framework.Failed, name, err.Error())
	}
	d, why := r.decide(n)
	if d == nil || why != nil {
		return why
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pv := range d.volumes {
		p.mu.volumes[pv.Name] = pv
	}
	for _, claim := range d.provision {
		p.mu.nodes[crclient.ObjectKeyFromObject(claim)] = node
	}
	p.mu.decided[pod.UID] = d
	return nil
}

// Unreserve forgets what was decided for the pod.
func (p *Plugin) Unreserve(pod *framework.PodInfo, _ string) { p.forget(pod.UID) }

// forget drops what was assumed for the pod: it was given up, or the API shows
// it.
func (p *Plugin) forget(pod types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.mu.decided[pod]
	if d == nil {
		return
	}
	delete(p.mu.decided, pod)
	for _, pv := range d.volumes {
		if p.mu.volumes[pv.Name] == pv {
			delete(p.mu.volumes, pv.Name)
		}
	}
	for _, claim := range d.provision {
		delete(p.mu.nodes, crclient.ObjectKeyFromObject(claim))
	}
}

// PreBind writes the decision and returns when the pod's claims are bound.
func (p *Plugin) PreBind(ctx context.Context, pod *corev1.Pod, node string) *framework.Status {
	p.mu.Lock()
	d := p.mu.decided[pod.UID]
	p.mu.Unlock()
	if d == nil {
		return nil
	}
	err := p.write(ctx, d)
	if err == nil {
		err = p.Await(ctx, p.clock, p.BindTimeout, errLate, func() (bool, error) { return p.check(ctx, pod, d) })
	}
	if err != nil {
		return framework.NewStatus(framework.Failed, name, fmt.Sprintf("running PreBind plugin %q: binding volumes: %v", name, err))
	}
	p.forget(pod.UID)
	return nil
}

func (p *Plugin) write(ctx context.Context, d *decision) error {
	for _, pv := range d.volumes {
		current := &corev1.PersistentVolume{}
		if err := p.client.Cache.Get(ctx, types.NamespacedName{Name: pv.Name}, current, crclient.UnsafeDisableDeepCopy); err != nil {
			return err
		}
		if ref := current.Spec.ClaimRef; ref != nil && ref.UID == pv.Spec.ClaimRef.UID {
			continue
		}
		// A volume that changed meanwhile may not be what was chosen.
		if err := p.client.Client.Update(ctx, pv.DeepCopy()); err != nil {
			return err
		}
	}
	for _, claim := range d.provision {
		current := &corev1.PersistentVolumeClaim{}
		if err := p.client.Cache.Get(ctx, crclient.ObjectKeyFromObject(claim), current, crclient.UnsafeDisableDeepCopy); err != nil {
			return err
		}
		if current.UID != claim.UID || current.Annotations[volume.AnnSelectedNode] != "" {
			continue
		}
		if err := p.client.Client.Update(ctx, withNode(current, d.node)); err != nil {
			return err
		}
	}
	return nil
}

// check reports whether all claims are bound.
func (p *Plugin) check(ctx context.Context, pod *corev1.Pod, d *decision) (bool, error) {
	read := p.client.Cache
	now := &corev1.Pod{}
	err := read.Get(ctx, crclient.ObjectKeyFromObject(pod), now, crclient.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) || err == nil && now.UID != pod.UID {
		return false, errors.New("pod does not exist any more")
	} else if err != nil {
		return false, err
	}
	node := &corev1.Node{}
	if err := read.Get(ctx, types.NamespacedName{Name: d.node}, node, crclient.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("failed to get node %q: %w", d.node, err)
	}
	for _, given := range d.volumes {
		pv := &corev1.PersistentVolume{}
		if err := read.Get(ctx, types.NamespacedName{Name: given.Name}, pv, crclient.UnsafeDisableDeepCopy); err != nil {
			return false, fmt.Errorf("failed to check pv binding: %w", err)
		}
		if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID == "" {
			return false, fmt.Errorf("ClaimRef got reset for pv %q", pv.Name)
		}
	}
	provision := map[types.NamespacedName]bool{}
	for _, claim := range d.provision {
		provision[crclient.ObjectKeyFromObject(claim)] = true
	}
	all := true
	for _, key := range d.claims {
		claim := &corev1.PersistentVolumeClaim{}
		if err := read.Get(ctx, key, claim, crclient.UnsafeDisableDeepCopy); err != nil {
			return false, fmt.Errorf("failed to check pvc binding: %w", err)
		}
		if provision[key] && !bound(claim) {
			switch claim.Annotations[volume.AnnSelectedNode] {
			case d.node:
			case "":
				return false, fmt.Errorf("provisioning failed for PVC %q", claim.Name)
			default:
				return false, fmt.Errorf("provisioning failed for PVC %q: another node was selected", claim.Name)
			}
		}
		if !bound(claim) {
			all = false
			continue
		}
		pv := &corev1.PersistentVolume{}
		err := read.Get(ctx, types.NamespacedName{Name: claim.Spec.VolumeName}, pv, crclient.UnsafeDisableDeepCopy)
		if apierrors.IsNotFound(err) {
			all = false
			continue
		} else if err != nil {
			return false, err
		}
		if err := volume.CheckNodeAffinity(pv, node.Labels); err != nil {
			return false, fmt.Errorf("pv %q node affinity doesn't match node %q: %w", pv.Name, node.Name, err)
		}
	}
	return all, nil
}
