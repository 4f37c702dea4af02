package csi

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

// nodeIDs annotates a node with what its drivers call it.
const nodeIDs = "csi.volume.kubernetes.io/nodeid"

// announce tells the cluster what the driver says of the node, in the Node and
// in the CSINode; nil means that the driver is gone.
func (d *Drivers) announce(ctx context.Context, name string, info *csi.NodeGetInfoResponse) error {
	node := &v1.Node{}
	if err := d.Client.Get(ctx, ctrl.ObjectKey{Name: d.NodeName}, node); err != nil {
		return err
	}
	if err := d.announceNode(ctx, node, name, info); err != nil {
		return fmt.Errorf("updating Node %s: %w", d.NodeName, err)
	}
	again := func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
	err := retry.OnError(retry.DefaultRetry, again, func() error { return d.announceCSINode(ctx, node, name, info) })
	if err != nil {
		return fmt.Errorf("updating CSINode %s: %w", d.NodeName, err)
	}
	return nil
}

func (d *Drivers) announceNode(ctx context.Context, node *v1.Node, name string, info *csi.NodeGetInfoResponse) error {
	next := node.DeepCopy()
	ids := map[string]string{}
	if text := node.Annotations[nodeIDs]; text != "" {
		if err := json.Unmarshal([]byte(text), &ids); err != nil {
			return fmt.Errorf("annotation %s: %w", nodeIDs, err)
		}
	}
	if info == nil {
		delete(ids, name)
	} else {
		ids[name] = info.NodeId
		for key, value := range info.GetAccessibleTopology().GetSegments() {
			if have, has := node.Labels[key]; has && have != value {
				return fmt.Errorf("detected topology value collision: driver reported %q:%q but existing label is %q:%q", key, value, key, have)
			}
			metav1.SetMetaDataLabel(&next.ObjectMeta, key, value)
		}
	}
	if len(ids) == 0 {
		delete(next.Annotations, nodeIDs)
	} else {
		text, err := json.Marshal(ids)
		if err != nil {
			return err
		}
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, nodeIDs, string(text))
	}
	if equality.Semantic.DeepEqual(next, node) {
		return nil
	}
	return d.Client.Patch(ctx, next, ctrl.MergeFrom(node))
}

func (d *Drivers) announceCSINode(ctx context.Context, node *v1.Node, name string, info *csi.NodeGetInfoResponse) error {
	object := &storagev1.CSINode{}
	err := d.Client.Get(ctx, ctrl.ObjectKey{Name: d.NodeName}, object)
	missing := apierrors.IsNotFound(err)
	switch {
	case missing && info == nil:
		return nil
	case missing:
		object = &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{
			Name:            d.NodeName,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
		}}
	case err != nil:
		return err
	}
	before := object.Spec.DeepCopy()
	object.Spec.Drivers = slices.DeleteFunc(object.Spec.Drivers, func(o storagev1.CSINodeDriver) bool { return o.Name == name })
	if info != nil {
		object.Spec.Drivers = append(object.Spec.Drivers, driverOf(name, info))
	}
	switch {
	case missing:
		return d.Client.Create(ctx, object)
	case equality.Semantic.DeepEqual(*before, object.Spec):
		return nil
	}
	return d.Client.Update(ctx, object)
}

func driverOf(name string, info *csi.NodeGetInfoResponse) storagev1.CSINodeDriver {
	out := storagev1.CSINodeDriver{Name: name, NodeID: info.NodeId}
	for key := range info.GetAccessibleTopology().GetSegments() {
		out.TopologyKeys = append(out.TopologyKeys, key)
	}
	slices.Sort(out.TopologyKeys)
	if n := info.MaxVolumesPerNode; n > 0 {
		count := int32(min(n, 1<<31-1))
		out.Allocatable = &storagev1.VolumeNodeResources{Count: &count}
	}
	return out
}
