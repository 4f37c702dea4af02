package dynamicresources

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"
	"k8s.io/utils/ptr"
)

// Census returns how many devices that stand for the extended resource are on a
// node now, and how many of them are taken. It is nil if none can be.
func (p *Plugin) Census(resource corev1.ResourceName) func(node *corev1.Node) (have, taken int64) {
	known, err := p.classesOf()
	if err != nil || known[resource] == "" {
		return nil
	}
	ctx := context.Background()
	class, err := classes{p.client.Cache}.Get(known[resource])
	if err != nil {
		return nil
	}
	state, err := p.allocated(ctx)
	if err != nil {
		return nil
	}
	all, err := p.slices(ctx)
	if err != nil {
		return nil
	}
	c := &census{class: class, state: state, expressions: p.expressions(), local: map[string][]*resourcev1.ResourceSlice{}}
	for _, s := range all {
		if s.Spec.NodeName != nil {
			c.local[*s.Spec.NodeName] = append(c.local[*s.Spec.NodeName], s)
		} else {
			c.others = append(c.others, s)
		}
	}
	return c.count
}

// census counts the devices of a class.
type census struct {
	class       *resourcev1.DeviceClass
	state       *structured.AllocatedState
	expressions *cel.Cache
	// local are the slices by the node that has their devices; the devices of
	// others say themselves where they are, or are in many places.
	local  map[string][]*resourcev1.ResourceSlice
	others []*resourcev1.ResourceSlice
}

// count says nothing of a node of which it cannot say all.
func (c *census) count(node *corev1.Node) (have, taken int64) {
	for _, slices := range [][]*resourcev1.ResourceSlice{c.local[node.Name], c.others} {
		for _, s := range slices {
			for i := range s.Spec.Devices {
				d := &s.Spec.Devices[i]
				matches, err := reaches(s, d, node)
				if matches && err == nil {
					matches, err = c.matches(s, d)
				}
				if err != nil {
					return 0, 0
				}
				if !matches {
					continue
				}
				have++
				if structured.IsDeviceAllocated(structured.MakeDeviceID(s.Spec.Driver, s.Spec.Pool.Name, d.Name), c.state) {
					taken++
				}
			}
		}
	}
	return have, taken
}

// reaches reports whether the device can be used on the node.
func reaches(s *resourcev1.ResourceSlice, d *resourcev1.Device, node *corev1.Node) (bool, error) {
	name, everywhere, selector := s.Spec.NodeName, s.Spec.AllNodes, s.Spec.NodeSelector
	if ptr.Deref(s.Spec.PerDeviceNodeSelection, false) {
		name, everywhere, selector = d.NodeName, d.AllNodes, d.NodeSelector
	}
	return structured.NodeMatches(features, node, ptr.Deref(name, ""), ptr.Deref(everywhere, false), selector)
}

// matches reports whether the device is one of the class.
func (c *census) matches(s *resourcev1.ResourceSlice, d *resourcev1.Device) (bool, error) {
	for _, selector := range c.class.Spec.Selectors {
		if selector.CEL == nil {
			continue
		}
		compiled := c.expressions.GetOrCompile(selector.CEL.Expression)
		if compiled.Error != nil {
			return false, compiled.Error
		}
		matches, _, err := compiled.DeviceMatches(context.Background(), cel.Device{
			Driver: s.Spec.Driver, Attributes: d.Attributes, Capacity: d.Capacity,
		})
		if err != nil || !matches {
			return false, err
		}
	}
	return true, nil
}
