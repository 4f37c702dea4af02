// Package always holds the plug-ins that let everything through and nothing
// (AlwaysAdmit, AlwaysDeny).
package always

import (
	"context"

	"skiff/internal/apiserver/admission"
)

// Admit lets everything through.
type Admit struct{}

// Deny refuses every change.
type Deny struct{}

// Validate implements admission.Validator.
func (Deny) Validate(_ context.Context, a *admission.Attributes) error {
	return a.Forbidden("admission control is denying all modifications")
}
