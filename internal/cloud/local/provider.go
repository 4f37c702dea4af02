package local

import (
	cloudprovider "k8s.io/cloud-provider"
)

// Name is the provider's name.
const Name = "local"

// Provider is the provider: all that it has is a Balancer. The nodes tell their
// addresses themselves, and route to one another without help.
type Provider struct{ Balancer *Balancer }

var _ cloudprovider.Interface = Provider{}

// Initialize implements cloudprovider.Interface.
func (Provider) Initialize(cloudprovider.ControllerClientBuilder, <-chan struct{}) {}

// LoadBalancer implements cloudprovider.Interface.
func (p Provider) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return p.Balancer, true }

// Instances implements cloudprovider.Interface.
func (Provider) Instances() (cloudprovider.Instances, bool) { return nil, false }

// InstancesV2 implements cloudprovider.Interface.
func (Provider) InstancesV2() (cloudprovider.InstancesV2, bool) { return nil, false }

// Zones implements cloudprovider.Interface.
func (Provider) Zones() (cloudprovider.Zones, bool) { return nil, false }

// Clusters implements cloudprovider.Interface.
func (Provider) Clusters() (cloudprovider.Clusters, bool) { return nil, false }

// Routes implements cloudprovider.Interface.
func (Provider) Routes() (cloudprovider.Routes, bool) { return nil, false }

// ProviderName implements cloudprovider.Interface.
func (Provider) ProviderName() string { return Name }

// HasClusterID implements cloudprovider.Interface.
func (Provider) HasClusterID() bool { return true }
