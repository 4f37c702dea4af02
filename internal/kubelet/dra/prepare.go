package dra

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	draplugin "k8s.io/kubelet/pkg/apis/dra/v1"
)

// Prepare has the devices of all claims of the pod prepared. It may be called
// again at any time.
func (d *Drivers) Prepare(ctx context.Context, pod *v1.Pod) error {
	if len(pod.Spec.ResourceClaims) == 0 && pod.Status.ExtendedResourceClaimStatus == nil {
		return nil
	}
	claims, err := d.claimsOf(ctx, pod)
	if err != nil {
		return err
	}
	d.work.Lock()
	defer d.work.Unlock()
	if err := d.load(); err != nil {
		return err
	}
	var errs []error
	for _, claim := range claims {
		if err := d.prepare(ctx, claim, pod.UID); err != nil {
			errs = append(errs, fmt.Errorf("claim %s: %w", claim.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (d *Drivers) prepare(ctx context.Context, claim *resourcev1.ResourceClaim, pod types.UID) error {
	p := d.claims[claim.UID]
	if p == nil {
		p = &prepared{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID}
		for _, r := range claim.Status.Allocation.Devices.Results {
			if !slices.Contains(p.Drivers, r.Driver) {
				p.Drivers = append(p.Drivers, r.Driver)
			}
		}
		d.claims[claim.UID] = p
	}
	if !slices.Contains(p.Pods, pod) {
		p.Pods = append(p.Pods, pod)
		if err := d.save(); err != nil {
			return err
		}
	}
	if p.Ready {
		return nil
	}
	var devices []device
	for _, name := range p.Drivers {
		driver, err := d.driver(name)
		if err != nil {
			return err
		}
		answer, err := driver.NodePrepareResources(ctx, &draplugin.NodePrepareResourcesRequest{Claims: []*draplugin.Claim{p.wire()}})
		if err != nil {
			return fmt.Errorf("NodePrepareResources of driver %s: %w", name, err)
		}
		result := answer.Claims[string(claim.UID)]
		switch {
		case result == nil:
			return fmt.Errorf("NodePrepareResources of driver %s: it left the claim out of its answer", name)
		case result.Error != "":
			return fmt.Errorf("NodePrepareResources of driver %s failed: %s", name, result.Error)
		}
		for _, r := range result.Devices {
			devices = append(devices, device{Requests: r.RequestNames, CDI: r.CdiDeviceIds})
		}
	}
	p.Devices, p.Ready = devices, true
	return d.save()
}

func (p *prepared) wire() *draplugin.Claim {
	return &draplugin.Claim{Namespace: p.Namespace, Name: p.Name, Uid: string(p.UID)}
}

// Devices returns the names by which the container runtime knows the devices
// that a container asks for. The pod must be prepared.
func (d *Drivers) Devices(ctx context.Context, pod *v1.Pod, c *v1.Container) ([]string, error) {
	wishes := wishesOf(pod, c)
	if len(wishes) == 0 {
		return nil, nil
	}
	claims, err := d.claimsOf(ctx, pod)
	if err != nil {
		return nil, err
	}
	d.work.Lock()
	defer d.work.Unlock()
	var names []string
	for _, wish := range wishes {
		claim := claims[wish.Name]
		if claim == nil {
			continue
		}
		p := d.claims[claim.UID]
		if p == nil || !p.Ready {
			return nil, fmt.Errorf("claim %s is not prepared", claim.Name)
		}
		for _, dev := range p.Devices {
			meant := wish.Request == "" || len(dev.Requests) == 0 || slices.ContainsFunc(dev.Requests, func(r string) bool {
				return resourceclaim.BaseRequestRef(r) == wish.Request
			})
			for _, name := range dev.CDI {
				if meant && !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
	}
	return names, nil
}

// wishesOf returns the claims, and the requests of them, whose devices the
// container is given.
func wishesOf(pod *v1.Pod, c *v1.Container) []v1.ResourceClaim {
	wishes := slices.Clone(c.Resources.Claims)
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		for _, m := range s.RequestMappings {
			if m.ContainerName == c.Name {
				wishes = append(wishes, v1.ResourceClaim{Name: extendedResources, Request: m.RequestName})
			}
		}
	}
	return wishes
}

// Unprepare gives up what the pod uses; claims that no other pod uses are taken
// back by their drivers.
func (d *Drivers) Unprepare(ctx context.Context, pod types.UID) error {
	d.work.Lock()
	defer d.work.Unlock()
	if err := d.load(); err != nil {
		return err
	}
	var errs []error
	for uid, p := range d.claims {
		i := slices.Index(p.Pods, pod)
		if i < 0 {
			continue
		}
		if len(p.Pods) == 1 {
			if err := d.unprepare(ctx, p); err != nil {
				errs = append(errs, fmt.Errorf("claim %s: %w", p.Name, err))
				continue
			}
			delete(d.claims, uid)
		} else {
			p.Pods = slices.Delete(p.Pods, i, i+1)
		}
		if err := d.save(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (d *Drivers) unprepare(ctx context.Context, p *prepared) error {
	if p.Ready {
		// From now on it must be prepared again before it is used.
		p.Ready = false
		if err := d.save(); err != nil {
			return err
		}
	}
	for _, name := range p.Drivers {
		driver, err := d.driver(name)
		if err != nil {
			return err
		}
		answer, err := driver.NodeUnprepareResources(ctx, &draplugin.NodeUnprepareResourcesRequest{Claims: []*draplugin.Claim{p.wire()}})
		if err != nil {
			return fmt.Errorf("NodeUnprepareResources of driver %s: %w", name, err)
		}
		result := answer.Claims[string(p.UID)]
		switch {
		case result == nil:
			return fmt.Errorf("NodeUnprepareResources of driver %s: it left the claim out of its answer", name)
		case result.Error != "":
			return fmt.Errorf("NodeUnprepareResources of driver %s failed: %s", name, result.Error)
		}
	}
	return nil
}

// load reads what an earlier kubelet prepared.
func (d *Drivers) load() error {
	if d.claims != nil {
		return nil
	}
	var all []*prepared
	data, err := os.ReadFile(d.File)
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading which devices are prepared from %s: %w", d.File, err)
	}
	d.claims = map[types.UID]*prepared{}
	for _, p := range all {
		d.claims[p.UID] = p
	}
	return nil
}

// save writes it, all or nothing.
func (d *Drivers) save() error {
	all := make([]*prepared, 0, len(d.claims))
	for _, p := range d.claims {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *prepared) int {
		if a.UID < b.UID {
			return -1
		}
		return 1
	})
	data, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(d.File), 0o750); err != nil {
		return err
	}
	next := d.File + ".new"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return fmt.Errorf("noting which devices are prepared: %w", err)
	}
	return os.Rename(next, d.File)
}
