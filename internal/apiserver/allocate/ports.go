package allocate

import (
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/core"
)

// Node ports are taken from this range (upstream's default). The first ones are
// for Services that ask for a certain one (KEP-3668): a 32nd of the range.
const (
	firstNodePort = 30000
	lastNodePort  = 32767
	allNodePorts  = lastNodePort - firstNodePort + 1

	reservedNodePorts = allNodePorts / 32
)

// nodePortsOf returns the node ports of the Service's ports; a port is one
// Service's for all protocols.
func nodePortsOf(s *corev1.Service) []int32 {
	var out []int32
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, p.NodePort)
		}
	}
	return out
}

// portsOf returns all ports of nodes that are the Service's.
func portsOf(s *corev1.Service) []int32 {
	out := nodePortsOf(s)
	if p := s.Spec.HealthCheckNodePort; p != 0 {
		out = append(out, p)
	}
	return out
}

// assignNodePorts gives node ports to the ports that need one.
func (t *transaction) assignNodePorts() error {
	s := t.service
	if s.Spec.Type != corev1.ServiceTypeNodePort && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	allocate := s.Spec.Type == corev1.ServiceTypeNodePort || ptr.Deref(s.Spec.AllocateLoadBalancerNodePorts, true)
	if t.old != nil {
		return t.changeNodePorts(allocate)
	}
	// Ports of one number and different protocols share a node port.
	given := map[int32]int32{}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort == 0 && !allocate {
			continue
		}
		shared := given[p.Port]
		if shared == 0 {
			p.NodePort = requested(s.Spec.Ports, p.Port)
		} else if p.NodePort == 0 || p.NodePort == shared {
			p.NodePort = shared
			continue
		}
		if err := t.assignPort(i, p); err != nil {
			return err
		}
		if shared == 0 {
			given[p.Port] = p.NodePort
		}
	}
	return nil
}

// requested returns the node port that somebody asks for with this port.
func requested(ports []corev1.ServicePort, port int32) int32 {
	for _, p := range ports {
		if p.Port == port && p.NodePort != 0 {
			return p.NodePort
		}
	}
	return 0
}

// changeNodePorts claims what the Service did not have before the update.
func (t *transaction) changeNodePorts(allocate bool) error {
	had := nodePortsOf(t.old)
	for _, p := range portsOf(t.old) {
		t.held[p] = true
	}
	for i := range t.service.Spec.Ports {
		p := &t.service.Spec.Ports[i]
		if p.NodePort == 0 && !allocate || p.NodePort != 0 && slices.Contains(had, p.NodePort) {
			continue
		}
		if err := t.assignPort(i, p); err != nil {
			return err
		}
		had = append(had, p.NodePort)
	}
	return nil
}

// assignPort claims the node port that the i-th port asks for, or any.
func (t *transaction) assignPort(i int, p *corev1.ServicePort) error {
	if p.NodePort != 0 {
		if err := t.claimPort(p.NodePort); err != nil {
			return invalid(t.service, field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), p.NodePort, err.Error()))
		}
		return nil
	}
	port, err := t.pickPort()
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
	}
	p.NodePort = port
	return nil
}

// assignHealthCheckPort gives a load balancer that wants local endpoints only
// the port at which each node tells if it has some.
func (t *transaction) assignHealthCheckPort() error {
	s := t.service
	if !core.NeedsHealthCheckPort(s) || t.old != nil && core.NeedsHealthCheckPort(t.old) {
		return nil
	}
	if port := s.Spec.HealthCheckNodePort; port != 0 {
		if err := t.claimPort(port); err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %d: %w", port, err))
		}
		return nil
	}
	port, err := t.pickPort()
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a HealthCheck NodePort: %w", err))
	}
	s.Spec.HealthCheckNodePort = port
	return nil
}

// claimPort takes a port that the Service asks for and does not hold.
func (t *transaction) claimPort(p int32) error {
	if p < firstNodePort || p > lastNodePort {
		return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %d-%d", firstNodePort, lastNodePort)
	}
	if t.held[p] || !t.mu.ports.free(p, t.service.UID) {
		return errors.New("provided port is already allocated")
	}
	t.takePort(p)
	return nil
}

// pickPort takes a port that nobody has.
func (t *transaction) pickPort() (int32, error) {
	for n := range trials(allNodePorts, reservedNodePorts) {
		if p := firstNodePort + int32(n); !t.held[p] && t.mu.ports.on(p) == nil {
			t.takePort(p)
			return p, nil
		}
	}
	return 0, fmt.Errorf("no port is left in %d-%d", firstNodePort, lastNodePort)
}

func (t *transaction) takePort(p int32) {
	t.held[p] = true
	reserve(t, &t.mu.ports, p)
}
