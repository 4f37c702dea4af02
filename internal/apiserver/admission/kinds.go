package admission

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apis"
)

// Versions returns the served versions of the resource.
func (a *Attributes) Versions() []*apis.Version {
	all := make([]*apis.Version, 0, 1+len(a.Resource.Other))
	if !a.Resource.Hub.Unserved && !a.Resource.Hub.Off {
		all = append(all, &a.Resource.Hub)
	}
	for i := range a.Resource.Other {
		if !a.Resource.Other[i].Off {
			all = append(all, &a.Resource.Other[i])
		}
	}
	return all
}

// RequestVersion returns the version that the request is made in.
func (a *Attributes) RequestVersion() *apis.Version {
	if a.Version == nil {
		return &a.Resource.Hub
	}
	return a.Version
}

// GVR names the resource in version v.
func (a *Attributes) GVR(v *apis.Version) schema.GroupVersionResource {
	return v.GroupVersion().WithResource(a.Resource.Resource)
}

// Kind returns the kind of the write's object when the resource is seen in
// version v: the resource's own, or that of a subresource.
func (a *Attributes) Kind(v *apis.Version) schema.GroupVersionKind {
	if kind := a.ownKind(); !kind.Empty() {
		return kind
	}
	return v.GVK()
}

// ownKind is the kind of a subresource that does not speak the resource's.
func (a *Attributes) ownKind() schema.GroupVersionKind {
	if a.Subresource == "" {
		return schema.GroupVersionKind{}
	}
	for i := range a.Resource.Subresources {
		if s := &a.Resource.Subresources[i]; s.Name == a.Subresource {
			return s.Kind
		}
	}
	if a.Subresource == "scale" && a.Resource.Scale != nil {
		return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
	}
	return schema.GroupVersionKind{}
}

// SpeaksParent reports whether the write's objects are of the resource's own
// kind.
func (a *Attributes) SpeaksParent() bool { return a.ownKind().Empty() }

// RequestNamespace is the namespace as webhooks and policies are told it: that
// of a Namespace is itself.
func (a *Attributes) RequestNamespace() string {
	if a.Namespace == "" && a.Is("", "namespaces", a.Subresource) {
		if a.Name != "" {
			return a.Name
		}
		if m, ok := a.Object.(metav1.Object); ok {
			return m.GetName()
		}
	}
	return a.Namespace
}
