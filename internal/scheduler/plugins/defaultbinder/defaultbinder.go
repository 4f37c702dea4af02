// Package defaultbinder binds pods through the API.
package defaultbinder

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/scheduler/framework"
)

const name = "DefaultBinder"

// Plugin posts a Binding.
type Plugin struct{ Client client.Client }

// Name returns the plugin's name.
func (Plugin) Name() string { return name }

// Bind assigns pod to the node.
func (p Plugin) Bind(ctx context.Context, pod *corev1.Pod, node string) *framework.Status {
	b := &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}
	if err := p.Client.SubResource("binding").Create(ctx, pod, b); err != nil {
		return framework.NewStatus(framework.Failed, name, err.Error())
	}
	return nil
}
