// Package ingressclass gives Ingresses that name no class the default one
// (DefaultIngressClass).
package ingressclass

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/admission"
)

// oldAnnotation named the class before the field did.
const oldAnnotation = "kubernetes.io/ingress.class"

// Plugin implements admission.Mutator.
type Plugin struct{ Cache client.Reader }

// Mutate implements admission.Mutator.
func (p *Plugin) Mutate(ctx context.Context, a *admission.Attributes) error {
	if a.Operation != admission.Create || !a.Is("networking.k8s.io", "ingresses", "") {
		return nil
	}
	ingress := a.Object.(*networkingv1.Ingress)
	if _, ok := ingress.Annotations[oldAnnotation]; ok || ingress.Spec.IngressClassName != nil {
		return nil
	}
	var classes networkingv1.IngressClassList
	if err := p.Cache.List(ctx, &classes, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	if class := newestDefault(classes.Items); class != nil {
		name := class.Name
		ingress.Spec.IngressClassName = &name
	}
	return nil
}

// newestDefault returns the default class. If several claim to be it, the
// newest is, and of equally old ones the first by name.
func newestDefault(classes []networkingv1.IngressClass) (best *networkingv1.IngressClass) {
	for i := range classes {
		c := &classes[i]
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true" {
			continue
		}
		if best == nil || best.CreationTimestamp.Before(&c.CreationTimestamp) ||
			best.CreationTimestamp.Equal(&c.CreationTimestamp) && c.Name < best.Name {
			best = c
		}
	}
	return best
}
