// Package dra has the node's DRA drivers prepare the devices that were
// allocated to pods' resource claims (KEP-4381), and take them back when the
// last pod that uses a claim has ended.
//
// What was asked of a driver is on disk before it is asked, so that it is taken
// back whatever happens to the kubelet or to the claim.
package dra

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	draplugin "k8s.io/kubelet/pkg/apis/dra/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/kubelet/plugins"
)

// PluginType is how DRA drivers register.
const PluginType = "DRAPlugin"

// wipeAfter is how long a driver may be away until what it published about the
// node is withdrawn.
const wipeAfter = 30 * time.Second

// Drivers are the DRA drivers of a node. It implements plugins.Handler.
type Drivers struct {
	NodeName string
	// File is where it is noted what was prepared.
	File   string
	Client ctrl.Client
	Clock  clock.Clock
	Log    *slog.Logger
	// Changed is called when a driver has come, which pods may wait for.
	Changed func()

	mu      sync.Mutex
	drivers map[string]*driver
	// work lets one at a time ask drivers, and guards claims.
	work   sync.Mutex
	claims map[types.UID]*prepared
}

type driver struct {
	endpoint string
	conn     *grpc.ClientConn
	draplugin.DRAPluginClient
}

// prepared is a claim that drivers prepared, or were asked to.
type prepared struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
	// Pods are those that use it.
	Pods    []types.UID `json:"pods"`
	Drivers []string    `json:"drivers"`
	// Ready is true when all drivers are done.
	Ready   bool     `json:"ready"`
	Devices []device `json:"devices,omitempty"`
}

// device is a device of a claim, and its names for the container runtime.
type device struct {
	Requests []string `json:"requests,omitempty"`
	CDI      []string `json:"cdi,omitempty"`
}

// Register implements plugins.Handler.
func (d *Drivers) Register(_ context.Context, p plugins.Plugin) error {
	if !slices.Contains(p.Versions, draplugin.DRAPluginService) {
		return fmt.Errorf("DRA driver %s at %s offers %v, and %s is needed", p.Name, p.Endpoint, p.Versions, draplugin.DRAPluginService)
	}
	conn, err := plugins.Dial(p.Endpoint)
	if err != nil {
		return err
	}
	d.mu.Lock()
	if d.drivers == nil {
		d.drivers = map[string]*driver{}
	}
	old := d.drivers[p.Name]
	d.drivers[p.Name] = &driver{p.Endpoint, conn, draplugin.NewDRAPluginClient(conn)}
	d.mu.Unlock()
	if old != nil {
		old.conn.Close()
	}
	d.Changed()
	return nil
}

// Deregister implements plugins.Handler. It returns when it is clear whether
// the driver comes back.
func (d *Drivers) Deregister(ctx context.Context, p plugins.Plugin) {
	d.mu.Lock()
	old := d.drivers[p.Name]
	if old == nil || old.endpoint != p.Endpoint {
		d.mu.Unlock()
		return
	}
	delete(d.drivers, p.Name)
	d.mu.Unlock()
	old.conn.Close()
	select {
	case <-ctx.Done():
		return
	case <-d.Clock.After(wipeAfter):
	}
	if _, err := d.driver(p.Name); err == nil {
		return
	}
	err := d.Client.DeleteAllOf(ctx, &resourcev1.ResourceSlice{}, ctrl.MatchingFields{
		resourcev1.ResourceSliceSelectorNodeName: d.NodeName, resourcev1.ResourceSliceSelectorDriver: p.Name,
	})
	if err != nil {
		d.Log.Warn("the devices of a DRA driver that is gone could not be withdrawn", "driver", p.Name, "err", err)
	}
}

func (d *Drivers) driver(name string) (*driver, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if known := d.drivers[name]; known != nil {
		return known, nil
	}
	return nil, fmt.Errorf("DRA driver %s is not registered", name)
}

// claimsOf returns the claims of a pod, by the pod's names for them.
func (d *Drivers) claimsOf(ctx context.Context, pod *v1.Pod) (map[string]*resourcev1.ResourceClaim, error) {
	out := map[string]*resourcev1.ResourceClaim{}
	for i := range pod.Spec.ResourceClaims {
		c := &pod.Spec.ResourceClaims[i]
		name, own, err := resourceclaim.Name(pod, c)
		if err != nil {
			return nil, err
		}
		if name == nil {
			continue
		}
		claim, err := d.claim(ctx, pod, *name)
		if err != nil {
			return nil, err
		}
		if own {
			if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
				return nil, err
			}
		}
		out[c.Name] = claim
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		claim, err := d.claim(ctx, pod, s.ResourceClaimName)
		if err != nil {
			return nil, err
		}
		out[extendedResources] = claim
	}
	return out, nil
}

// extendedResources stands for the claim that was made for a pod's extended
// resources; it is no name that a pod can have for one.
const extendedResources = ""

// claim returns a claim that is the pod's to use.
func (d *Drivers) claim(ctx context.Context, pod *v1.Pod, name string) (*resourcev1.ResourceClaim, error) {
	claim := &resourcev1.ResourceClaim{}
	if err := d.Client.Get(ctx, ctrl.ObjectKey{Namespace: pod.Namespace, Name: name}, claim); err != nil {
		return nil, fmt.Errorf("fetch ResourceClaim %s: %w", name, err)
	}
	if claim.Status.Allocation == nil || !resourceclaim.IsReservedForPod(pod, claim, false) {
		return nil, fmt.Errorf("pod %s (%s) is not allowed to use ResourceClaim %s (%s): it is not allocated and reserved for it", pod.Name, pod.UID, claim.Name, claim.UID)
	}
	return claim, nil
}
