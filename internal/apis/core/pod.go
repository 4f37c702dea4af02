package core

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
)

func podResource() schema.GroupResource { return schema.GroupResource{Resource: "pods"} }

func pods() *apis.Resource {
	return apis.Of[*corev1.Pod]{
		Names: apis.Names{Resource: "pods", Singular: "pod", Kind: "Pod",
			ShortNames: []string{"po"}, Categories: []string{"all"}, Namespaced: true},
		Version:          "v1",
		New:              func() *corev1.Pod { return &corev1.Pod{} },
		NewList:          func() runtime.Object { return &corev1.PodList{} },
		ReturnDeleted:    true,
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsChanged, apis.AsNew},
		Default:          defaultPod,
		PrepareCreate:    func(_ context.Context, pod *corev1.Pod) { preparePod(pod) },
		PrepareUpdate:    func(_ context.Context, pod, _ *corev1.Pod) { dropGated(&pod.Spec) },
		Validate:         func(_ context.Context, pod *corev1.Pod) field.ErrorList { return validatePodCreate(pod) },
		ValidateUpdate:   func(_ context.Context, pod, old *corev1.Pod) field.ErrorList { return validatePodUpdate(pod, old) },
		Warnings:         podWarnings,
		HasStatus:        true,
		// Of which only a class stays.
		KeepStatusOnCreate:   true,
		Reset:                map[string][]string{"status": {"metadata.deletionTimestamp", "metadata.ownerReferences"}},
		PrepareStatusUpdate:  func(_ context.Context, pod, old *corev1.Pod) { preparePodStatus(pod, old) },
		ValidateStatusUpdate: func(_ context.Context, pod, old *corev1.Pod) field.ErrorList { return validatePodStatus(pod, old) },
		Generation:           true,
		GracePeriod:          podGracePeriod,
		Columns:              podColumns(),
		Cells:                podCells,
		Fields: map[string]func(*corev1.Pod) string{
			"spec.nodeName":            func(p *corev1.Pod) string { return p.Spec.NodeName },
			"spec.restartPolicy":       func(p *corev1.Pod) string { return string(p.Spec.RestartPolicy) },
			"spec.schedulerName":       func(p *corev1.Pod) string { return p.Spec.SchedulerName },
			"spec.serviceAccountName":  func(p *corev1.Pod) string { return p.Spec.ServiceAccountName },
			"spec.hostNetwork":         func(p *corev1.Pod) string { return strconv.FormatBool(p.Spec.HostNetwork) },
			"status.phase":             func(p *corev1.Pod) string { return string(p.Status.Phase) },
			"status.podIP":             podIP,
			"status.podIPs":            podIPs,
			"status.nominatedNodeName": func(p *corev1.Pod) string { return p.Status.NominatedNodeName },
		},
		Subresources: []apis.Subresource{
			podBinding(), podEviction(), podEphemeralContainers(), podResize(),
			{Name: "log", New: func() runtime.Object { return &corev1.PodLogOptions{} }, Verbs: []string{"get"}},
			podStream("exec", "PodExecOptions", func() runtime.Object { return &corev1.PodExecOptions{} }),
			podStream("attach", "PodAttachOptions", func() runtime.Object { return &corev1.PodAttachOptions{} }),
			podStream("portforward", "PodPortForwardOptions", func() runtime.Object { return &corev1.PodPortForwardOptions{} }),
			proxySubresource("PodProxyOptions", func() runtime.Object { return &corev1.PodProxyOptions{} }),
		},
	}.Resource()
}

func newPod() runtime.Object { return &corev1.Pod{} }

// podStream is a connection to a running container.
func podStream(name, kind string, options func() runtime.Object) apis.Subresource {
	return apis.Subresource{Name: name, Kind: corev1.SchemeGroupVersion.WithKind(kind), New: options, Verbs: []string{"create", "get"}}
}

func podIP(pod *corev1.Pod) string {
	if len(pod.Status.PodIPs) == 0 {
		return ""
	}
	return pod.Status.PodIPs[0].IP
}

func podIPs(pod *corev1.Pod) string {
	ips := make([]string, len(pod.Status.PodIPs))
	for i, ip := range pod.Status.PodIPs {
		ips[i] = ip.IP
	}
	return strings.Join(ips, ",")
}

func preparePod(pod *corev1.Pod) {
	// Like upstream, a pod that is copied with its class keeps it.
	class := pod.Status.QOSClass
	if class == "" {
		class = podQOS(pod)
	}
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: class}
	if len(pod.Spec.SchedulingGates) > 0 {
		pod.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates", LastTransitionTime: metav1.Now(),
		}}
	}
	dropGated(&pod.Spec)
	mergeLabelKeys(pod)
}

// podGracePeriod: a pod that no kubelet runs, or that has ended, needs no time
// to end.
func podGracePeriod(pod *corev1.Pod, wish *int64) int64 {
	if pod.Spec.NodeName == "" || isFinished(pod) {
		return 0
	}
	var seconds int64
	switch {
	case wish != nil:
		seconds = *wish
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *pod.Spec.TerminationGracePeriodSeconds
	}
	if seconds < 0 {
		return 1
	}
	return seconds
}

func isFinished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func podWarnings(_ context.Context, pod, old *corev1.Pod) []string {
	// Updates come from components, which nobody warns.
	if old != nil {
		return nil
	}
	var w []string
	if messages := validation.IsDNS1123Label(pod.Name); len(messages) > 0 {
		w = append(w, fmt.Sprintf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", messages))
	}
	return append(w, podSpecWarnings(&pod.Spec, &pod.ObjectMeta, nil)...)
}

// podEphemeralContainers adds containers for debugging to a running pod; those
// that are there stay as they are.
func podEphemeralContainers() apis.Subresource {
	return apis.Subresource{
		Name:  "ephemeralcontainers",
		New:   newPod,
		Verbs: []string{"get", "patch", "update"},
		Prepare: func(_ context.Context, obj, old apis.Object) {
			pod := obj.(*corev1.Pod)
			added := pod.Spec.EphemeralContainers
			takeBack(pod, old.(*corev1.Pod))
			pod.Spec.EphemeralContainers = added
		},
		Validate: func(_ context.Context, obj, old apis.Object) field.ErrorList {
			return validateEphemeralContainersUpdate(obj.(*corev1.Pod), old.(*corev1.Pod))
		},
	}
}
