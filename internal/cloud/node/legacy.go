package node

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cloudprovider "k8s.io/cloud-provider"
)

// Instances returns what a provider knows of instances, in the newer form even
// where it only has the older one. It is nil if the provider knows nothing.
func Instances(p cloudprovider.Interface) cloudprovider.InstancesV2 {
	if v2, ok := p.InstancesV2(); ok {
		return v2
	}
	instances, ok := p.Instances()
	if !ok {
		return nil
	}
	zones, _ := p.Zones()
	return &legacy{p.ProviderName(), instances, zones}
}

// legacy is an older provider.
type legacy struct {
	name      string
	instances cloudprovider.Instances
	zones     cloudprovider.Zones // may be nil
}

func (l *legacy) id(ctx context.Context, n *corev1.Node) (string, error) {
	if n.Spec.ProviderID != "" {
		return n.Spec.ProviderID, nil
	}
	id, err := l.instances.InstanceID(ctx, types.NodeName(n.Name))
	if err != nil || id == "" {
		return "", err
	}
	return l.name + "://" + id, nil
}

// InstanceExists implements cloudprovider.InstancesV2.
func (l *legacy) InstanceExists(ctx context.Context, n *corev1.Node) (bool, error) {
	id, err := l.id(ctx, n)
	if errors.Is(err, cloudprovider.InstanceNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return l.instances.InstanceExistsByProviderID(ctx, id)
}

// InstanceShutdown implements cloudprovider.InstancesV2.
func (l *legacy) InstanceShutdown(ctx context.Context, n *corev1.Node) (bool, error) {
	id, err := l.id(ctx, n)
	if err != nil {
		return false, err
	}
	shutdown, err := l.instances.InstanceShutdownByProviderID(ctx, id)
	if errors.Is(err, cloudprovider.NotImplemented) {
		return false, nil
	}
	return shutdown, err
}

// InstanceMetadata implements cloudprovider.InstancesV2.
func (l *legacy) InstanceMetadata(ctx context.Context, n *corev1.Node) (*cloudprovider.InstanceMetadata, error) {
	id, err := l.id(ctx, n)
	if err != nil {
		return nil, err
	}
	known := &cloudprovider.InstanceMetadata{ProviderID: id}
	if known.InstanceType, err = l.instances.InstanceTypeByProviderID(ctx, id); err != nil {
		return nil, err
	}
	if known.NodeAddresses, err = l.instances.NodeAddressesByProviderID(ctx, id); err != nil {
		return nil, err
	}
	if l.zones != nil {
		zone, err := l.zones.GetZoneByProviderID(ctx, id)
		if err != nil {
			return nil, err
		}
		known.Zone, known.Region = zone.FailureDomain, zone.Region
	}
	return known, nil
}
