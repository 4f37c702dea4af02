// Package externalips refuses new external addresses of Services, which could
// catch traffic that is meant for others (DenyServiceExternalIPs).
package externalips

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"skiff/internal/apiserver/admission"
)

// Plugin implements admission.Validator.
type Plugin struct{}

// Validate implements admission.Validator.
func (Plugin) Validate(_ context.Context, a *admission.Attributes) error {
	if !a.Is("", "services", "") || a.Operation != admission.Create && a.Operation != admission.Update {
		return nil
	}
	var before []string
	if old, ok := a.Old.(*corev1.Service); ok {
		before = old.Spec.ExternalIPs
	}
	for _, ip := range a.Object.(*corev1.Service).Spec.ExternalIPs {
		if !slices.Contains(before, ip) {
			return a.Forbidden("Use of external IPs is denied by admission control.")
		}
	}
	return nil
}
