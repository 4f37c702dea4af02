package core

import (
	"context"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
)

func replicationControllers() *apis.Resource {
	return apis.Of[*corev1.ReplicationController]{
		Names: apis.Names{Resource: "replicationcontrollers", Singular: "replicationcontroller", Kind: "ReplicationController",
			ShortNames: []string{"rc"}, Categories: []string{"all"}, Namespaced: true},
		Version: "v1",
		Prefix:  "/registry/controllers",
		New:     func() *corev1.ReplicationController { return &corev1.ReplicationController{} },
		NewList: func() runtime.Object { return &corev1.ReplicationControllerList{} },
		Default: defaultReplicationController,
		Validate: func(_ context.Context, rc *corev1.ReplicationController) field.ErrorList {
			return validateReplicationController(rc, nil)
		},
		ValidateUpdate: func(_ context.Context, rc, old *corev1.ReplicationController) field.ErrorList {
			return validateReplicationController(rc, old)
		},
		Warnings:             replicationControllerWarnings,
		HasStatus:            true,
		ValidateStatusUpdate: validateReplicationControllerStatus,
		Generation:           true,
		DefaultPropagation:   metav1.DeletePropagationOrphan,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.Integer("Desired", corev1.ReplicationControllerSpec{}.SwaggerDoc()["replicas"]),
			columns.Integer("Current", corev1.ReplicationControllerStatus{}.SwaggerDoc()["replicas"]),
			columns.Integer("Ready", corev1.ReplicationControllerStatus{}.SwaggerDoc()["readyReplicas"]),
			columns.AgeColumn(),
			columns.Wide(columns.String("Containers", "Names of each container in the template.")),
			columns.Wide(columns.String("Images", "Images referenced by each container in the template.")),
			columns.Wide(columns.String("Selector", corev1.ReplicationControllerSpec{}.SwaggerDoc()["selector"])),
		},
		Cells: func(rc *corev1.ReplicationController) []any {
			var names, images string
			if rc.Spec.Template != nil {
				names, images = columns.Containers(rc.Spec.Template.Spec.Containers)
			}
			return []any{rc.Name, int64(ptr.Deref(rc.Spec.Replicas, 0)), int64(rc.Status.Replicas), int64(rc.Status.ReadyReplicas),
				columns.Age(rc.CreationTimestamp), names, images, columns.Labels(rc.Spec.Selector)}
		},
		Fields: map[string]func(*corev1.ReplicationController) string{
			"status.replicas": func(rc *corev1.ReplicationController) string { return strconv.Itoa(int(rc.Status.Replicas)) },
		},
		Scale: &apis.Scale{
			Replicas:       func(o apis.Object) int32 { return ptr.Deref(o.(*corev1.ReplicationController).Spec.Replicas, 0) },
			SetReplicas:    func(o apis.Object, n int32) { o.(*corev1.ReplicationController).Spec.Replicas = &n },
			StatusReplicas: func(o apis.Object) int32 { return o.(*corev1.ReplicationController).Status.Replicas },
			Selector: func(o apis.Object) string {
				return labels.SelectorFromSet(o.(*corev1.ReplicationController).Spec.Selector).String()
			},
		},
	}.Resource()
}

func replicationControllerWarnings(_ context.Context, rc, old *corev1.ReplicationController) []string {
	var w []string
	if old == nil {
		w = checks.PodPrefixWarnings(rc.Name)
	} else if rc.Generation == old.Generation {
		return nil
	}
	if rc.Spec.Template == nil {
		return w
	}
	return append(w, PodTemplateWarnings(rc.Spec.Template, field.NewPath("spec", "template"))...)
}

func defaultReplicationController(rc *corev1.ReplicationController) {
	if t := rc.Spec.Template; t != nil {
		// An author who leaves out selector or labels means the template's.
		if t.Labels != nil && len(rc.Spec.Selector) == 0 {
			rc.Spec.Selector = copyMap(t.Labels)
		}
		if t.Labels != nil && len(rc.Labels) == 0 {
			rc.Labels = copyMap(t.Labels)
		}
		DefaultPodTemplateSpec(t)
	}
	if rc.Spec.Replicas == nil {
		rc.Spec.Replicas = ptr.To[int32](1)
	}
}

func copyMap(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// validateReplicationController checks rc; old is nil on create.
func validateReplicationController(rc, old *corev1.ReplicationController) field.ErrorList {
	var p problems
	at := field.NewPath("spec")
	p.nonNegative(at.Child("minReadySeconds"), int64(rc.Spec.MinReadySeconds))
	if len(rc.Spec.Selector) == 0 {
		p.required(at.Child("selector"))
	}
	if rc.Spec.Replicas == nil {
		p.required(at.Child("replicas"))
	} else {
		p.nonNegative(at.Child("replicas"), int64(*rc.Spec.Replicas))
	}
	template := at.Child("template")
	t := rc.Spec.Template
	if t == nil {
		p.required(template)
		return p.list()
	}
	if len(rc.Spec.Selector) > 0 && !labels.SelectorFromSet(rc.Spec.Selector).Matches(labels.Set(t.Labels)) {
		p.invalid(template.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`")
	}
	if old != nil && old.Spec.Template != nil {
		p.add(ValidatePodTemplateSpecUpdate(t, old.Spec.Template, template))
	} else {
		p.add(ValidatePodTemplateSpec(t, template))
	}
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		p.one(field.NotSupported(template.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		p.forbidden(template.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicationController is not Supported")
	}
	return p.list()
}

func validateReplicationControllerStatus(_ context.Context, rc, _ *corev1.ReplicationController) field.ErrorList {
	var p problems
	s, at := &rc.Status, field.NewPath("status")
	p.nonNegative(at.Child("replicas"), int64(s.Replicas))
	p.nonNegative(at.Child("fullyLabeledReplicas"), int64(s.FullyLabeledReplicas))
	p.nonNegative(at.Child("readyReplicas"), int64(s.ReadyReplicas))
	p.nonNegative(at.Child("availableReplicas"), int64(s.AvailableReplicas))
	p.nonNegative(at.Child("observedGeneration"), s.ObservedGeneration)
	const tooMany = "cannot be greater than status.replicas"
	if s.FullyLabeledReplicas > s.Replicas {
		p.invalid(at.Child("fullyLabeledReplicas"), s.FullyLabeledReplicas, tooMany)
	}
	if s.ReadyReplicas > s.Replicas {
		p.invalid(at.Child("readyReplicas"), s.ReadyReplicas, tooMany)
	}
	if s.AvailableReplicas > s.Replicas {
		p.invalid(at.Child("availableReplicas"), s.AvailableReplicas, tooMany)
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		p.invalid(at.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas")
	}
	return p.list()
}
