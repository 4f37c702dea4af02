// Package topologylabels gives pods the labels that say where the node is which
// they are bound to (PodTopologyLabels, KEP-4742), so that containers can read
// them.
package topologylabels

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/admission"
)

// Plugin implements admission.Mutator.
type Plugin struct{ Cache client.Reader }

// Mutate implements admission.Mutator.
func (p *Plugin) Mutate(ctx context.Context, a *admission.Attributes) error {
	if a.Operation != admission.Create {
		return nil
	}
	switch obj := a.Object.(type) {
	case *corev1.Pod:
		if a.Is("", "pods", "") && obj.Spec.NodeName != "" {
			return p.label(ctx, &obj.ObjectMeta, obj.Spec.NodeName)
		}
	case *corev1.Binding:
		// The binding's labels become the pod's.
		if a.Is("", "pods", "binding") && obj.Target.Kind == "Node" {
			return p.label(ctx, &obj.ObjectMeta, obj.Target.Name)
		}
	}
	return nil
}

func (p *Plugin) label(ctx context.Context, meta *metav1.ObjectMeta, name string) error {
	node := &corev1.Node{}
	if err := p.Cache.Get(ctx, client.ObjectKey{Name: name}, node, client.UnsafeDisableDeepCopy); err != nil {
		return client.IgnoreNotFound(err)
	}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		if value, ok := node.Labels[key]; ok {
			metav1.SetMetaDataLabel(meta, key, value)
		}
	}
	return nil
}
