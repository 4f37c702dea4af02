package inprocess

import (
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// scaleFrom returns the scale that a caller handed in, with a type or without.
func scaleFrom(body client.Object) (*autoscalingv1.Scale, error) {
	switch o := body.(type) {
	case *autoscalingv1.Scale:
		return o, nil
	case *unstructured.Unstructured:
		scale := &autoscalingv1.Scale{}
		return scale, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, scale)
	}
	return nil, fmt.Errorf("the scale subresource takes an autoscaling/v1 Scale, not %T", body)
}

// giveScale copies a scale into what the caller handed in.
func giveScale(scale *autoscalingv1.Scale, into client.Object) error {
	u, ok := into.(*unstructured.Unstructured)
	if !ok {
		return assign(scale, into)
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(scale)
	if err != nil {
		return err
	}
	u.Object = content
	u.SetGroupVersionKind(autoscalingv1.SchemeGroupVersion.WithKind("Scale"))
	return nil
}
