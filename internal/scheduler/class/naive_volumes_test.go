package class_test

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
)

// naiveVolumes decides where volumes can be, from all the objects that there
// are. It shares no code with the rules.
type naiveVolumes struct {
	claims      []corev1.PersistentVolumeClaim
	volumes     []corev1.PersistentVolume
	classes     []storagev1.StorageClass
	nodes       []storagev1.CSINode
	drivers     []storagev1.CSIDriver
	capacities  []storagev1.CSIStorageCapacity
	attachments []storagev1.VolumeAttachment
	pods        []*corev1.Pod
}

// named returns the object of that name, or nil.
func named[T any, P interface {
	*T
	GetName() string
}](all []T, name string) P {
	for i := range all {
		if o := P(&all[i]); o.GetName() == name {
			return o
		}
	}
	return nil
}

// claimsOf returns the names of the claims that the pod uses.
func claimsOf(pod *corev1.Pod) (names []string) {
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		}
	}
	return names
}

// fits returns the volumes that the claims of the pod would be given on the
// node, by claim, with nil for those to be made.
func (v *naiveVolumes) fits(pod *corev1.Pod, n *corev1.Node) (given map[string]*corev1.PersistentVolume, ok bool) {
	if !v.exclusive(pod) || !v.diskFree(pod, n) || !v.inZone(pod, n) {
		return nil, false
	}
	given, ok = v.bind(pod, n)
	return given, ok && v.withinLimits(pod, n)
}

// exclusive: nobody else uses claims that one pod may use at a time.
func (v *naiveVolumes) exclusive(pod *corev1.Pod) bool {
	for _, name := range claimsOf(pod) {
		claim := named(v.claims, name)
		if claim == nil || !slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			continue
		}
		for _, p := range v.pods {
			if slices.Contains(claimsOf(p), name) {
				return false
			}
		}
	}
	return true
}

func (v *naiveVolumes) diskFree(pod *corev1.Pod, n *corev1.Node) bool {
	for _, mine := range pod.Spec.Volumes {
		for _, p := range v.pods {
			for _, theirs := range p.Spec.Volumes {
				a, b := mine.GCEPersistentDisk, theirs.GCEPersistentDisk
				if p.Spec.NodeName == n.Name && a != nil && b != nil && a.PDName == b.PDName && !(a.ReadOnly && b.ReadOnly) {
					return false
				}
			}
		}
	}
	return true
}

var zoneLabels = []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion}

// inZone: nodes that say where they are are where the volumes are. A node's
// newer labels answer volumes' older ones.
func (v *naiveVolumes) inZone(pod *corev1.Pod, n *corev1.Node) bool {
	if !slices.ContainsFunc(zoneLabels, func(l string) bool { _, has := n.Labels[l]; return has }) {
		return true
	}
	newer := map[string]string{
		corev1.LabelFailureDomainBetaZone: corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
	}
	for _, name := range claimsOf(pod) {
		claim := named(v.claims, name)
		if claim == nil {
			continue
		}
		pv := named(v.volumes, claim.Spec.VolumeName)
		if pv == nil {
			continue
		}
		for _, l := range zoneLabels {
			want, has := pv.Labels[l]
			zones := strings.Split(want, "__")
			if !has || slices.Contains(zones, "") {
				continue
			}
			here, known := n.Labels[l]
			if !known {
				here, known = n.Labels[newer[l]]
			}
			if !known || !slices.Contains(zones, here) {
				return false
			}
		}
	}
	return true
}

// reaches reports whether the volume can be used on the node.
func reaches(pv *corev1.PersistentVolume, n *corev1.Node) bool {
	if pv.Spec.NodeAffinity == nil {
		return true
	}
	return slices.ContainsFunc(pv.Spec.NodeAffinity.Required.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool { return selects(t, n) })
}

// bind gives each claim of the pod its volume: the smallest claims choose
// first, and take the smallest volume that will do.
func (v *naiveVolumes) bind(pod *corev1.Pod, n *corev1.Node) (given map[string]*corev1.PersistentVolume, ok bool) {
	given = map[string]*corev1.PersistentVolume{}
	var open []*corev1.PersistentVolumeClaim
	for _, name := range claimsOf(pod) {
		claim := named(v.claims, name)
		if claim == nil || claim.DeletionTimestamp != nil || claim.Status.Phase == corev1.ClaimLost {
			return nil, false
		}
		if claim.Annotations["pv.kubernetes.io/bind-completed"] != "" && claim.Spec.VolumeName != "" {
			if pv := named(v.volumes, claim.Spec.VolumeName); pv == nil || !reaches(pv, n) {
				return nil, false
			}
			continue
		}
		class := named(v.classes, *claim.Spec.StorageClassName)
		if class == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer || claim.Spec.VolumeName != "" {
			return nil, false
		}
		open = append(open, claim)
	}
	slices.SortStableFunc(open, func(a, b *corev1.PersistentVolumeClaim) int { return cmp.Compare(size(a), size(b)) })
	taken := map[string]bool{}
	for _, claim := range open {
		node := claim.Annotations["volume.kubernetes.io/selected-node"]
		if node != "" && node != n.Name {
			return nil, false
		}
		given[claim.Name] = nil
		if node == "" {
			if pv := v.choose(claim, n, taken); pv != nil {
				taken[pv.Name], given[claim.Name] = true, pv
				continue
			}
		}
		if !v.canMake(claim, n) {
			return nil, false
		}
	}
	return given, true
}

func size(claim *corev1.PersistentVolumeClaim) int64 {
	return claim.Spec.Resources.Requests.Storage().Value()
}

// choose returns the volume for the claim. One that was meant for it comes
// before all others, if it can be used on the node.
func (v *naiveVolumes) choose(claim *corev1.PersistentVolumeClaim, n *corev1.Node, taken map[string]bool) (best *corev1.PersistentVolume) {
	byName := slices.Clone(v.volumes)
	slices.SortFunc(byName, func(a, b corev1.PersistentVolume) int { return cmp.Compare(a.Name, b.Name) })
	for i := range byName {
		pv := &byName[i]
		meant := pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.Name == claim.Name && (pv.Spec.ClaimRef.UID == "" || pv.Spec.ClaimRef.UID == claim.UID)
		if taken[pv.Name] || pv.Spec.ClaimRef != nil && !meant || pv.DeletionTimestamp != nil ||
			pv.Spec.Capacity.Storage().Value() < size(claim) || *pv.Spec.VolumeMode != *claim.Spec.VolumeMode {
			continue
		}
		if meant {
			if reaches(pv, n) {
				return pv
			}
			return nil
		}
		modes := !slices.ContainsFunc(claim.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool {
			return !slices.Contains(pv.Spec.AccessModes, m)
		})
		selected := true
		if claim.Spec.Selector != nil {
			s, err := metav1.LabelSelectorAsSelector(claim.Spec.Selector)
			selected = err == nil && s.Matches(labels.Set(pv.Labels))
		}
		if pv.Status.Phase != corev1.VolumeAvailable || pv.Spec.StorageClassName != *claim.Spec.StorageClassName || !modes || !selected || !reaches(pv, n) {
			continue
		}
		if best == nil || pv.Spec.Capacity.Storage().Cmp(*best.Spec.Capacity.Storage()) < 0 {
			best = pv
		}
	}
	return best
}

// canMake reports whether the claim's driver can make a volume for the node.
func (v *naiveVolumes) canMake(claim *corev1.PersistentVolumeClaim, n *corev1.Node) bool {
	class := named(v.classes, *claim.Spec.StorageClassName)
	if class.Provisioner == "kubernetes.io/no-provisioner" {
		return false
	}
	allowed := len(class.AllowedTopologies) == 0
	for _, t := range class.AllowedTopologies {
		allowed = allowed || !slices.ContainsFunc(t.MatchLabelExpressions, func(e corev1.TopologySelectorLabelRequirement) bool {
			have, has := n.Labels[e.Key]
			return !has || !slices.Contains(e.Values, have)
		})
	}
	driver := named(v.drivers, class.Provisioner)
	if !allowed || driver == nil || !ptr.Deref(driver.Spec.StorageCapacity, false) {
		return allowed
	}
	return slices.ContainsFunc(v.capacities, func(c storagev1.CSIStorageCapacity) bool {
		limit := c.Capacity
		if c.MaximumVolumeSize != nil {
			limit = c.MaximumVolumeSize
		}
		if c.StorageClassName != class.Name || limit == nil || limit.Value() < size(claim) || c.NodeTopology == nil {
			return false
		}
		s, err := metav1.LabelSelectorAsSelector(c.NodeTopology)
		return err == nil && s.Matches(labels.Set(n.Labels))
	})
}

// withinLimits: no driver has more volumes on the node than it can.
func (v *naiveVolumes) withinLimits(pod *corev1.Pod, n *corev1.Node) bool {
	node := named(v.nodes, n.Name)
	if node == nil {
		return true
	}
	// here are the volumes by driver, as they will be; more are those to come.
	here, more := map[string]map[string]bool{}, map[string]bool{}
	add := func(driver, volume string) bool {
		if here[driver] == nil {
			here[driver] = map[string]bool{}
		}
		known := here[driver][volume]
		here[driver][volume] = true
		return !known
	}
	for _, a := range v.attachments {
		if pv := named(v.volumes, *a.Spec.Source.PersistentVolumeName); a.Spec.NodeName == n.Name && pv != nil && pv.Spec.CSI != nil {
			add(pv.Spec.CSI.Driver, pv.Spec.CSI.VolumeHandle)
		}
	}
	for _, p := range v.pods {
		if p.Spec.NodeName == n.Name {
			for _, name := range claimsOf(p) {
				if driver, volume := v.source(name); driver != "" {
					add(driver, volume)
				}
			}
		}
	}
	for _, name := range claimsOf(pod) {
		if driver, volume := v.source(name); driver != "" && add(driver, volume) {
			more[driver] = true
		}
	}
	for _, d := range node.Spec.Drivers {
		if more[d.Name] && d.Allocatable != nil && len(here[d.Name]) > int(*d.Allocatable.Count) {
			return false
		}
	}
	return true
}

// source returns the driver of a claim's volume, and what the driver calls the
// volume; claims whose volume is not there will have one of their class's
// driver.
func (v *naiveVolumes) source(name string) (driver, volume string) {
	claim := named(v.claims, name)
	if claim == nil {
		return "", ""
	}
	if pv := named(v.volumes, claim.Spec.VolumeName); pv != nil {
		if pv.Spec.CSI == nil {
			return "", ""
		}
		return pv.Spec.CSI.Driver, pv.Spec.CSI.VolumeHandle
	}
	class := named(v.classes, *claim.Spec.StorageClassName)
	if class == nil {
		return "", ""
	}
	return class.Provisioner, "of claim " + name
}
