// Package nodevolumelimits keeps pods off nodes that cannot have more volumes of
// a CSI driver, as the driver says in the node's CSINode.
package nodevolumelimits

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/plugins/volumebinding"
)

const name = "NodeVolumeLimits"

// Plugin is the filter.
type Plugin struct{ Cache crclient.Reader }

// Name returns the plugin's name.
func (Plugin) Name() string { return name }

var exceeded = framework.NewStatus(framework.Unschedulable, name, "node(s) exceed max volume count")

// attachable is a volume of a CSI driver.
type attachable struct{ driver, handle string }

type rule struct {
	cache crclient.Reader
	// wanted are the pod's own volumes, attached those that nodes have.
	wanted   map[attachable]bool
	attached map[string][]attachable
}

// PreFilter makes the rule for pod.
func (p Plugin) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	r := &rule{cache: p.Cache, wanted: map[attachable]bool{}, attached: map[string][]attachable{}}
	r.volumes(pod.Pod, r.wanted)
	if len(r.wanted) == 0 {
		return nil, nil
	}
	var attachments storagev1.VolumeAttachmentList
	if err := p.Cache.List(context.Background(), &attachments, crclient.UnsafeDisableDeepCopy); err != nil {
		return nil, framework.NewStatus(framework.Failed, name, err.Error())
	}
	for i := range attachments.Items {
		a := &attachments.Items[i]
		if a.Spec.Source.PersistentVolumeName == nil {
			continue
		}
		var pv corev1.PersistentVolume
		if !r.read(&pv, types.NamespacedName{Name: *a.Spec.Source.PersistentVolumeName}) {
			continue
		}
		if v, ok := csi(&pv); ok {
			r.attached[a.Spec.NodeName] = append(r.attached[a.Spec.NodeName], v)
		}
	}
	return r, nil
}

// volumes adds the pod's CSI volumes to found.
func (r *rule) volumes(pod *corev1.Pod, found map[attachable]bool) {
	for i := range pod.Spec.Volumes {
		claimName := volumebinding.ClaimName(pod, &pod.Spec.Volumes[i])
		if claimName == "" {
			continue
		}
		var claim corev1.PersistentVolumeClaim
		if !r.read(&claim, types.NamespacedName{Namespace: pod.Namespace, Name: claimName}) {
			continue
		}
		if v, ok := r.volume(&claim); ok {
			found[v] = true
		}
	}
}

// volume returns the claim's volume, if it is one of a CSI driver. One that is
// not there will be one of the class's driver.
func (r *rule) volume(claim *corev1.PersistentVolumeClaim) (attachable, bool) {
	var pv corev1.PersistentVolume
	if claim.Spec.VolumeName != "" && r.read(&pv, types.NamespacedName{Name: claim.Spec.VolumeName}) {
		return csi(&pv)
	}
	var class storagev1.StorageClass
	of := volume.GetPersistentVolumeClaimClass(claim)
	if of == "" || !r.read(&class, types.NamespacedName{Name: of}) {
		return attachable{}, false
	}
	return attachable{class.Provisioner, crclient.ObjectKeyFromObject(claim).String()}, true
}

func csi(pv *corev1.PersistentVolume) (attachable, bool) {
	if pv.Spec.CSI == nil {
		return attachable{}, false
	}
	return attachable{pv.Spec.CSI.Driver, pv.Spec.CSI.VolumeHandle}, true
}

// read reads into obj, and reports whether it could.
func (r *rule) read(obj crclient.Object, key types.NamespacedName) bool {
	return r.cache.Get(context.Background(), key, obj, crclient.UnsafeDisableDeepCopy) == nil
}

// Filter implements framework.Filter.
func (r *rule) Filter(n *framework.NodeInfo) *framework.Status {
	var node storagev1.CSINode
	if !r.read(&node, types.NamespacedName{Name: n.Node.Name}) {
		return nil
	}
	limits := map[string]int32{}
	for i := range node.Spec.Drivers {
		if a := node.Spec.Drivers[i].Allocatable; a != nil && a.Count != nil {
			limits[node.Spec.Drivers[i].Name] = *a.Count
		}
	}
	if len(limits) == 0 {
		return nil
	}
	present := map[attachable]bool{}
	for _, p := range n.Pods {
		r.volumes(p.Pod, present)
	}
	for _, v := range r.attached[n.Node.Name] {
		present[v] = true
	}
	count, more := map[string]int32{}, map[string]int32{}
	for v := range present {
		count[v.driver]++
	}
	for v := range r.wanted {
		if !present[v] {
			more[v.driver]++
		}
	}
	for driver, extra := range more {
		if limit, has := limits[driver]; has && count[driver]+extra > limit {
			return exceeded
		}
	}
	return nil
}

// Cures reports whether a volume may have left a node, or a limit changed.
func (Plugin) Cures(pod *framework.PodInfo, e framework.Event) bool {
	switch e.Kind {
	case framework.NodeAdded, framework.PodGone:
		return true
	case framework.VolumeChanged:
		return e.Claim == "" || volumebinding.Uses(pod.Pod, e.Namespace, e.Claim)
	}
	return false
}
