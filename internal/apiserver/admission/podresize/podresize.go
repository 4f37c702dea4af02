// Package podresize refuses to resize a pod beyond what its node has at all
// (PodResizeValidator).
package podresize

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/admission"
)

// The causes of refusals, by which autoscalers tell them apart.
const (
	nodeCapacity        metav1.CauseType = "NodeCapacity"
	unsupportedPlatform metav1.CauseType = "UnsupportedPlatform"
)

// Plugin implements admission.Validator.
type Plugin struct{ Cache client.Reader }

// Validate implements admission.Validator.
func (p *Plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	if a.Operation != admission.Update || !a.Is("", "pods", "resize") {
		return nil
	}
	pod, old := a.Object.(*corev1.Pod), a.Old.(*corev1.Pod)
	if pod.Spec.NodeName == "" || equality.Semantic.DeepEqual(pod.Spec, old.Spec) {
		return nil
	}
	node := &corev1.Node{}
	err := p.Cache.Get(ctx, client.ObjectKey{Name: pod.Spec.NodeName}, node, client.UnsafeDisableDeepCopy)
	switch {
	case apierrors.IsNotFound(err):
		return a.Forbidden("node %q not found", pod.Spec.NodeName)
	case err != nil:
		return a.Forbidden("failed to get node %q: %w", pod.Spec.NodeName, err)
	}
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	var missing []string
	if asked, has := requests.Cpu().MilliValue(), node.Status.Allocatable.Cpu().MilliValue(); asked > has {
		missing = append(missing, fmt.Sprintf("cpu, requested: %d, allocatable: %d", asked, has))
	}
	if asked, has := requests.Memory().Value(), node.Status.Allocatable.Memory().Value(); asked > has {
		missing = append(missing, fmt.Sprintf("memory, requested: %d, allocatable: %d", asked, has))
	}
	if len(missing) > 0 {
		return refuse(a, nodeCapacity, "node didn't have enough allocatable resources: "+strings.Join(missing, "; "))
	}
	if os := node.Labels[corev1.LabelOSStable]; os != string(corev1.Linux) {
		return refuse(a, unsupportedPlatform, fmt.Sprintf("pod resize is only supported on linux nodes, node %q is %q", node.Name, os))
	}
	return nil
}

func refuse(a *admission.Attributes, cause metav1.CauseType, text string) error {
	var err *apierrors.StatusError
	errors.As(a.Forbidden("%s", text), &err)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause, Message: text})
	return err
}
