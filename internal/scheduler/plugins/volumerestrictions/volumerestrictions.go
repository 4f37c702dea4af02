// Package volumerestrictions keeps pods apart that must not share a volume:
// claims that one pod may use at a time, and disks that one node may attach to
// one pod.
package volumerestrictions

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/plugins/volumebinding"
)

const name = "VolumeRestrictions"

// Plugin is the filter.
type Plugin struct{ Cache crclient.Reader }

// Name returns the plugin's name.
func (Plugin) Name() string { return name }

var (
	inUse = framework.NewStatus(framework.Unschedulable, name,
		"node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode")
	diskConflict = framework.NewStatus(framework.Unschedulable, name, "node(s) had no available disk")
)

// PreFilter makes the rule for pod.
func (p Plugin) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	var exclusive []string
	disks := false
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		disks = disks || isDisk(v)
		claimName := volumebinding.ClaimName(pod.Pod, v)
		if claimName == "" {
			continue
		}
		var claim corev1.PersistentVolumeClaim
		key := types.NamespacedName{Namespace: pod.Namespace, Name: claimName}
		if p.Cache.Get(context.Background(), key, &claim, crclient.UnsafeDisableDeepCopy) == nil &&
			slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			exclusive = append(exclusive, claimName)
		}
	}
	if len(exclusive) > 0 {
		return &rule{pod: pod.Pod, disks: disks, exclusive: exclusive, users: map[int]int{}}, nil
	}
	if disks {
		return diskRule{pod.Pod}, nil
	}
	return nil, nil
}

// rule is about claims that one pod may use at a time, anywhere.
type rule struct {
	pod       *corev1.Pod
	disks     bool
	exclusive []string
	// users counts pods that use the claims, by row, and total in all.
	users map[int]int
	total int
}

// Observe implements framework.Observer.
func (r *rule) Observe(n *framework.NodeInfo) (regroup bool) {
	now := 0
	if n.Node != nil {
		for _, p := range n.Pods {
			if p.UID != r.pod.UID && slices.ContainsFunc(r.exclusive, func(claim string) bool {
				return volumebinding.Uses(p.Pod, r.pod.Namespace, claim)
			}) {
				now++
			}
		}
	}
	r.total += now - r.users[n.Row]
	if now == 0 {
		delete(r.users, n.Row)
	} else {
		r.users[n.Row] = now
	}
	return false
}

// Group implements framework.Observer: disks are looked for on each node.
func (r *rule) Group(n *framework.NodeInfo, keys []uint64) []uint64 {
	if r.disks {
		return append(keys, uint64(n.Row))
	}
	return append(keys, 0)
}

// Filter implements framework.Filter.
func (r *rule) Filter(n *framework.NodeInfo) *framework.Status {
	if r.total > 0 {
		return inUse
	}
	if r.disks {
		return diskRule{r.pod}.Filter(n)
	}
	return nil
}

// diskRule is about disks that one node may attach to one pod.
type diskRule struct{ pod *corev1.Pod }

// Filter implements framework.Filter.
func (r diskRule) Filter(n *framework.NodeInfo) *framework.Status {
	for i := range r.pod.Spec.Volumes {
		mine := &r.pod.Spec.Volumes[i]
		if !isDisk(mine) {
			continue
		}
		for _, p := range n.Pods {
			for j := range p.Spec.Volumes {
				if conflicts(mine, &p.Spec.Volumes[j]) {
					return diskConflict
				}
			}
		}
	}
	return nil
}

func isDisk(v *corev1.Volume) bool {
	return v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.RBD != nil || v.ISCSI != nil
}

// conflicts reports whether the volumes are one disk that not both may use.
func conflicts(a, b *corev1.Volume) bool {
	switch {
	case a.GCEPersistentDisk != nil && b.GCEPersistentDisk != nil:
		x, y := a.GCEPersistentDisk, b.GCEPersistentDisk
		return x.PDName == y.PDName && !(x.ReadOnly && y.ReadOnly)
	case a.AWSElasticBlockStore != nil && b.AWSElasticBlockStore != nil:
		return a.AWSElasticBlockStore.VolumeID == b.AWSElasticBlockStore.VolumeID
	case a.ISCSI != nil && b.ISCSI != nil:
		return a.ISCSI.IQN == b.ISCSI.IQN && !(a.ISCSI.ReadOnly && b.ISCSI.ReadOnly)
	case a.RBD != nil && b.RBD != nil:
		x, y := a.RBD, b.RBD
		shared := slices.ContainsFunc(x.CephMonitors, func(m string) bool { return slices.Contains(y.CephMonitors, m) })
		return shared && x.RBDPool == y.RBDPool && x.RBDImage == y.RBDImage && !(x.ReadOnly && y.ReadOnly)
	}
	return false
}

// Cures reports whether a pod went that may have used a volume, or the pod's
// claims changed.
func (Plugin) Cures(pod *framework.PodInfo, e framework.Event) bool {
	switch e.Kind {
	case framework.PodGone, framework.NodeAdded:
		return true
	case framework.VolumeChanged:
		return e.Claim != "" && volumebinding.Uses(pod.Pod, e.Namespace, e.Claim)
	}
	return false
}
