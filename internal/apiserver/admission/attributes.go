package admission

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
)

// Is reports whether the write is to the resource (and subresource).
func (a *Attributes) Is(group, resource, subresource string) bool {
	return a.Resource.Resource == resource && a.Resource.Group == group && a.Subresource == subresource
}

// Forbidden returns the error by which plug-ins refuse: it names the object,
// even where its name is not made yet.
func (a *Attributes) Forbidden(format string, args ...any) error {
	return apierrors.NewForbidden(a.Resource.GroupResource(), a.displayName(), fmt.Errorf(format, args...))
}

// RequestName returns the name that the request itself gives.
func (a *Attributes) RequestName() string {
	if a.Collective {
		return ""
	}
	return a.Name
}

func (a *Attributes) displayName() string {
	if a.Name != "" {
		return a.Name
	}
	if a.Object != nil {
		if m, err := meta.Accessor(a.Object); err == nil {
			if m.GetName() != "" {
				return m.GetName()
			}
			if m.GetGenerateName() != "" {
				return m.GetGenerateName()
			}
		}
	}
	return "Unknown"
}
