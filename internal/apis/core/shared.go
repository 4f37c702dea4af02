package core

import (
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateNodeSelector checks a selector of nodes that stands at path.
func ValidateNodeSelector(s *corev1.NodeSelector, at *field.Path) field.ErrorList {
	var p problems
	p.nodeSelector(at, s)
	return p.list()
}

// ValidateTolerations checks tolerations of taints of nodes.
func ValidateTolerations(t []corev1.Toleration, at *field.Path) field.ErrorList {
	var p problems
	p.tolerations(at, t)
	return p.list()
}

// ValidateTemplateMetadata checks the metadata of a template of objects, which
// can have labels and annotations.
func ValidateTemplateMetadata(m *metav1.ObjectMeta, at *field.Path) field.ErrorList {
	errs := apivalidation.ValidateAnnotations(m.Annotations, at.Child("annotations"))
	errs = append(errs, metav1validation.ValidateLabels(m.Labels, at.Child("labels"))...)
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"name", m.Name != ""},
		{"generateName", m.GenerateName != ""},
		{"namespace", m.Namespace != ""},
		{"selfLink", m.SelfLink != ""},
		{"uID", m.UID != ""},
		{"resourceVersion", m.ResourceVersion != ""},
		{"generation", m.Generation != 0},
		{"creationTimestamp", !m.CreationTimestamp.IsZero()},
		{"deletionTimestamp", m.DeletionTimestamp != nil},
		{"deletionGracePeriodSeconds", m.DeletionGracePeriodSeconds != nil},
		{"ownerReferences", m.OwnerReferences != nil},
		{"finalizers", m.Finalizers != nil},
		{"managedFields", m.ManagedFields != nil},
	} {
		if f.set {
			errs = append(errs, field.Forbidden(at.Child(f.name), "cannot be set"))
		}
	}
	return errs
}

// ValidateOverhead checks what a pod takes beside its containers.
func ValidateOverhead(l corev1.ResourceList, at *field.Path) field.ErrorList {
	var p problems
	p.resources(at, &corev1.ResourceRequirements{Limits: l}, nil, p.containerResourceName)
	return p.list()
}

// ValidateInlineVolumeSpec checks a volume of a CSI driver that stands for a
// volume inside a pod, in another object than a PersistentVolume.
func ValidateInlineVolumeSpec(s *corev1.PersistentVolumeSpec, at *field.Path) field.ErrorList {
	var p problems
	forbid := func(set bool, name string) {
		if set {
			p.forbidden(at.Child(name), "may not be specified in the context of inline volumes")
		}
	}
	forbid(s.ClaimRef != nil, "claimRef")
	forbid(len(s.Capacity) > 0, "capacity")
	if s.CSI == nil {
		p.missing(at.Child("csi"), "has to be specified in the context of inline volumes")
	}
	if len(s.AccessModes) == 0 {
		p.required(at.Child("accessModes"))
	}
	p.accessModes(at.Child("accessModes"), s.AccessModes)
	if r := s.PersistentVolumeReclaimPolicy; r != "" && r != corev1.PersistentVolumeReclaimRetain {
		p.forbidden(at.Child("persistentVolumeReclaimPolicy"), "may only be Retain in the context of inline volumes")
	}
	forbid(s.NodeAffinity != nil, "nodeAffinity")
	p.oneVolumeSource(at, p.persistentSources(&corev1.PersistentVolume{Spec: *s}))
	forbid(s.StorageClassName != "", "storageClassName")
	if m := s.VolumeMode; m != nil && *m != corev1.PersistentVolumeFilesystem {
		p.forbidden(at.Child("volumeMode"), "may not specify volumeMode other than Filesystem in the context of inline volumes")
	}
	return p.list()
}
