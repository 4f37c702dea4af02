package volumebinding

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/scheduler/framework"
)

// rule is what one pod's volumes demand of a node.
type rule struct {
	p *Plugin
	// bound are volumes that have their place; missing is set if a claim's
	// volume is gone.
	bound   []*corev1.PersistentVolume
	missing bool
	// unbound are claims that get their volume on the pod's node, the smallest
	// first; candidates are the volumes they may get.
	unbound    []*corev1.PersistentVolumeClaim
	candidates []*corev1.PersistentVolume
	classes    map[string]*storagev1.StorageClass
	// counted are the classes of drivers that say what they have left, which are
	// the capacities.
	counted    map[string]bool
	capacities []storagev1.CSIStorageCapacity
}

// decision is what is to be done for a pod on a node.
type decision struct {
	node string
	// volumes are to be bound to the claims they name then; provision are claims
	// whose provisioner is to be told the node.
	volumes   []*corev1.PersistentVolume
	provision []*corev1.PersistentVolumeClaim
	// claims are all that must be bound before the pod is.
	claims []types.NamespacedName
}

// add takes a claim in. The status says why no node will do.
func (r *rule) add(ctx context.Context, claim *corev1.PersistentVolumeClaim) *framework.Status {
	if bound(claim) {
		pv := &corev1.PersistentVolume{}
		switch err := r.p.client.Cache.Get(ctx, types.NamespacedName{Name: claim.Spec.VolumeName}, pv, crclient.UnsafeDisableDeepCopy); {
		case apierrors.IsNotFound(err):
			r.missing = true
		case err != nil:
			return framework.NewStatus(framework.Failed, name, err.Error())
		default:
			r.bound = append(r.bound, pv)
		}
		return nil
	}
	class, err := r.class(ctx, volume.GetPersistentVolumeClaimClass(claim))
	if err != nil {
		return framework.NewStatus(framework.Failed, name, err.Error())
	}
	if !waits(class) || claim.Spec.VolumeName != "" {
		return unresolvable("pod has unbound immediate PersistentVolumeClaims")
	}
	r.unbound = append(r.unbound, claim)
	return nil
}

// class returns a class, or nil if there is none of that name.
func (r *rule) class(ctx context.Context, of string) (*storagev1.StorageClass, error) {
	if class, known := r.classes[of]; known || of == "" {
		return class, nil
	}
	class := &storagev1.StorageClass{}
	err := r.p.client.Cache.Get(ctx, types.NamespacedName{Name: of}, class, crclient.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		class, err = nil, nil
	}
	r.classes[of] = class
	return class, err
}

// load reads what unbound claims may get.
func (r *rule) load(ctx context.Context) error {
	slices.SortStableFunc(r.unbound, func(a, b *corev1.PersistentVolumeClaim) int {
		x, y := a.Spec.Resources.Requests[corev1.ResourceStorage], b.Spec.Resources.Requests[corev1.ResourceStorage]
		return x.Cmp(y)
	})
	var all corev1.PersistentVolumeList
	if err := r.p.client.Cache.List(ctx, &all, crclient.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	r.p.mu.Lock()
	for i := range all.Items {
		pv := &all.Items[i]
		if assumed := r.p.mu.volumes[pv.Name]; assumed != nil && pv.Spec.ClaimRef == nil {
			pv = assumed
		}
		if slices.ContainsFunc(r.unbound, func(c *corev1.PersistentVolumeClaim) bool {
			return pv.Spec.ClaimRef == nil && volume.GetPersistentVolumeClass(pv) == volume.GetPersistentVolumeClaimClass(c) || volume.IsVolumeBoundToClaim(pv, c)
		}) {
			r.candidates = append(r.candidates, pv)
		}
	}
	r.p.mu.Unlock()
	slices.SortFunc(r.candidates, func(a, b *corev1.PersistentVolume) int { return cmp.Compare(a.Name, b.Name) })
	return r.loadCapacities(ctx)
}

func (r *rule) loadCapacities(ctx context.Context) error {
	r.counted = map[string]bool{}
	for _, class := range r.classes {
		if class == nil {
			continue
		}
		var driver storagev1.CSIDriver
		err := r.p.client.Cache.Get(ctx, types.NamespacedName{Name: class.Provisioner}, &driver, crclient.UnsafeDisableDeepCopy)
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return err
		case ptr.Deref(driver.Spec.StorageCapacity, false):
			r.counted[class.Name] = true
		}
	}
	if len(r.counted) == 0 {
		return nil
	}
	var all storagev1.CSIStorageCapacityList
	err := r.p.client.Cache.List(ctx, &all, crclient.UnsafeDisableDeepCopy)
	r.capacities = all.Items
	return err
}

// What keeps a pod off a node.
var (
	wrongNode = framework.NewStatus(framework.Unresolvable, name, "node(s) didn't match PersistentVolume's node affinity")
	noVolume  = framework.NewStatus(framework.Unresolvable, name, "node(s) didn't find available persistent volumes to bind")
	noSpace   = framework.NewStatus(framework.Unresolvable, name, "node(s) did not have enough free storage")
	noSuch    = framework.NewStatus(framework.Unresolvable, name, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
)

// Filter implements framework.Filter.
func (r *rule) Filter(n *framework.NodeInfo) *framework.Status {
	_, why := r.decide(n.Node)
	return why
}

// decide works out what is to be done on the node, or why it will not do.
func (r *rule) decide(node *corev1.Node) (*decision, *framework.Status) {
	if r.missing {
		return nil, noSuch
	}
	for _, pv := range r.bound {
		if volume.CheckNodeAffinity(pv, node.Labels) != nil {
			return nil, wrongNode
		}
	}
	if len(r.unbound) == 0 {
		return nil, nil
	}
	d := &decision{node: node.Name}
	chosen := map[string]*corev1.PersistentVolume{}
	for _, claim := range r.unbound {
		d.claims = append(d.claims, crclient.ObjectKeyFromObject(claim))
		selected, told := claim.Annotations[volume.AnnSelectedNode]
		if told && selected != node.Name {
			return nil, noVolume
		}
		if !told {
			pv, err := volume.FindMatchingVolume(claim, r.candidates, node, chosen, false, true)
			if err != nil {
				return nil, framework.NewStatus(framework.Failed, name, err.Error())
			}
			if pv != nil {
				chosen[pv.Name] = pv
				given, _, err := volume.GetBindVolumeToClaim(pv, claim)
				if err != nil {
					return nil, framework.NewStatus(framework.Failed, name, err.Error())
				}
				d.volumes = append(d.volumes, given)
				continue
			}
		}
		if why := r.canProvision(claim, node); why != nil {
			return nil, why
		}
		d.provision = append(d.provision, claim)
	}
	return d, nil
}

// canProvision says why the claim's volume cannot be made for the node.
func (r *rule) canProvision(claim *corev1.PersistentVolumeClaim, node *corev1.Node) *framework.Status {
	class := r.classes[volume.GetPersistentVolumeClaimClass(claim)]
	if class == nil || class.Provisioner == "" || class.Provisioner == "kubernetes.io/no-provisioner" {
		return noVolume
	}
	if !allows(class.AllowedTopologies, node.Labels) {
		return noVolume
	}
	if !r.counted[class.Name] {
		return nil
	}
	want := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	for i := range r.capacities {
		c := &r.capacities[i]
		limit := c.Capacity
		if c.MaximumVolumeSize != nil {
			limit = c.MaximumVolumeSize
		}
		if c.StorageClassName == class.Name && limit != nil && limit.Cmp(want) >= 0 && reaches(c, node) {
			return nil
		}
	}
	return noSpace
}

func reaches(c *storagev1.CSIStorageCapacity, node *corev1.Node) bool {
	if c.NodeTopology == nil {
		return false
	}
	s, err := metav1.LabelSelectorAsSelector(c.NodeTopology)
	return err == nil && s.Matches(labels.Set(node.Labels))
}

// allows reports whether one of the terms allows the labels; no terms allow
// all.
func allows(terms []corev1.TopologySelectorTerm, node map[string]string) bool {
	if len(terms) == 0 {
		return true
	}
	return slices.ContainsFunc(terms, func(t corev1.TopologySelectorTerm) bool {
		return !slices.ContainsFunc(t.MatchLabelExpressions, func(e corev1.TopologySelectorLabelRequirement) bool {
			value, has := node[e.Key]
			return !has || !slices.Contains(e.Values, value)
		})
	})
}
