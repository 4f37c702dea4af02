// Package volumezone keeps pods in the zones and regions of their volumes, for
// volumes that say so by labels.
package volumezone

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/plugins/volumebinding"
)

const name = "VolumeZone"

// Plugin is the filter.
type Plugin struct{ Cache crclient.Reader }

// Name returns the plugin's name.
func (Plugin) Name() string { return name }

// topology are the labels that count, with those by which nodes may answer
// instead.
var topology = map[string]string{
	corev1.LabelFailureDomainBetaZone:   corev1.LabelTopologyZone,
	corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
	corev1.LabelTopologyZone:            corev1.LabelTopologyZone,
	corev1.LabelTopologyRegion:          corev1.LabelTopologyRegion,
}

// demand is a label of a volume: the node must have one of the values.
type demand struct {
	key    string
	values []string
}

type rule []demand

var conflict = framework.NewStatus(framework.Unresolvable, name, "node(s) had no available volume zone")

// PreFilter makes the rule for pod.
func (p Plugin) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	var r rule
	for i := range pod.Spec.Volumes {
		source := pod.Spec.Volumes[i].PersistentVolumeClaim
		if source == nil {
			continue
		}
		// Claims without a volume are VolumeBinding's affair.
		var claim corev1.PersistentVolumeClaim
		key := types.NamespacedName{Namespace: pod.Namespace, Name: source.ClaimName}
		if p.Cache.Get(context.Background(), key, &claim, crclient.UnsafeDisableDeepCopy) != nil || claim.Spec.VolumeName == "" {
			continue
		}
		var pv corev1.PersistentVolume
		switch err := p.Cache.Get(context.Background(), types.NamespacedName{Name: claim.Spec.VolumeName}, &pv, crclient.UnsafeDisableDeepCopy); {
		case apierrors.IsNotFound(err):
			return nil, framework.NewStatus(framework.Unresolvable, name, fmt.Sprintf("persistentvolume %q not found", claim.Spec.VolumeName))
		case err != nil:
			return nil, framework.NewStatus(framework.Failed, name, err.Error())
		}
		for key := range topology {
			value, has := pv.Labels[key]
			values := strings.Split(value, "__")
			// A list with nothing between its separators says nothing.
			if has && !slices.Contains(values, "") {
				r = append(r, demand{key, values})
			}
		}
	}
	if r == nil {
		return nil, nil
	}
	return r, nil
}

// Filter implements framework.Filter.
func (r rule) Filter(n *framework.NodeInfo) *framework.Status {
	// A node without any of these labels is in the only zone there is.
	zoned := false
	for key := range topology {
		if _, has := n.Node.Labels[key]; has {
			zoned = true
		}
	}
	if !zoned {
		return nil
	}
	for _, d := range r {
		have, has := n.Node.Labels[d.key]
		if !has {
			have, has = n.Node.Labels[topology[d.key]]
		}
		if !has || !slices.Contains(d.values, have) {
			return conflict
		}
	}
	return nil
}

// Cures reports whether nodes or the pod's volumes changed.
func (Plugin) Cures(pod *framework.PodInfo, e framework.Event) bool {
	switch e.Kind {
	case framework.NodeAdded, framework.NodeChanged:
		return true
	case framework.VolumeChanged:
		return e.Claim == "" || volumebinding.Uses(pod.Pod, e.Namespace, e.Claim)
	}
	return false
}
