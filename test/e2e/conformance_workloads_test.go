//go:build e2e

package e2e_test

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/retry"
)

var (
	podsResource         = corev1.SchemeGroupVersion.WithResource("pods")
	controllersResource  = corev1.SchemeGroupVersion.WithResource("replicationcontrollers")
	deploymentsResource  = appsv1.SchemeGroupVersion.WithResource("deployments")
	replicaSetsResource  = appsv1.SchemeGroupVersion.WithResource("replicasets")
	statefulSetsResource = appsv1.SchemeGroupVersion.WithResource("statefulsets")
	daemonSetsResource   = appsv1.SchemeGroupVersion.WithResource("daemonsets")
	jobsResource         = batchv1.SchemeGroupVersion.WithResource("jobs")
	budgetsResource      = policyv1.SchemeGroupVersion.WithResource("poddisruptionbudgets")
)

// update changes an object, again if somebody else did so meanwhile.
func (s *space) update(r schema.GroupVersionResource, name string, change func(map[string]any) error, subresources ...string) {
	s.Helper()
	s.ok(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		obj, err := s.of(r).Get(s.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := change(obj.Object); err != nil {
			return err
		}
		_, err = s.of(r).Update(s.Context(), obj, metav1.UpdateOptions{}, subresources...)
		return err
	}))
}

// get reads an object.
func (s *space) get(r schema.GroupVersionResource, name string, into any, subresources ...string) {
	s.Helper()
	obj, err := s.of(r).Get(s.Context(), name, metav1.GetOptions{}, subresources...)
	s.ok(err)
	s.ok(runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, into))
}

// field reads one field of an object.
func (s *space) field(r schema.GroupVersionResource, name string, path ...string) any {
	s.Helper()
	obj, err := s.of(r).Get(s.Context(), name, metav1.GetOptions{})
	s.ok(err)
	value, _, err := unstructured.NestedFieldNoCopy(obj.Object, path...)
	s.ok(err)
	return value
}

// becomes waits until a field of an object has a value.
func (s *space) becomes(r schema.GroupVersionResource, name string, want any, path ...string) {
	s.Helper()
	s.eventually(fmt.Sprintf("%v of %s becomes %v", path, name, want), func(ctx context.Context) error {
		obj, err := s.of(r).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got, _, err := unstructured.NestedFieldNoCopy(obj.Object, path...); err != nil || got != want {
			return fmt.Errorf("it is %v, %v, with the status %v", got, err, obj.Object["status"])
		}
		return nil
	})
}

// scales demands a working subresource scale of an object with one replica.
func (s *space) scales(r schema.GroupVersionResource, name string) {
	s.Helper()
	scale := func() any {
		obj, err := s.of(r).Get(s.Context(), name, metav1.GetOptions{}, "scale")
		s.ok(err)
		replicas, _, err := unstructured.NestedInt64(obj.Object, "spec", "replicas")
		s.ok(err)
		s.condition("the scale has the object's name and a kind of its own", obj.GetName() == name && obj.GetKind() == "Scale" && obj.GetAPIVersion() == "autoscaling/v1", obj)
		return replicas
	}
	if got := scale(); got != int64(1) {
		s.Errorf("the scale is %v, not 1", got)
	}
	obj, err := s.of(r).Get(s.Context(), name, metav1.GetOptions{}, "scale")
	s.ok(err)
	obj.SetResourceVersion("")
	s.ok(unstructured.SetNestedField(obj.Object, int64(2), "spec", "replicas"))
	_, err = s.of(r).Update(s.Context(), obj, metav1.UpdateOptions{}, "scale")
	s.ok(err)
	if got := s.field(r, name, "spec", "replicas"); got != int64(2) {
		s.Errorf("after the update of the scale there are to be %v replicas, not 2", got)
	}
	s.becomes(r, name, int64(2), "status", "replicas")
	s.patch(r, name, `{"spec":{"replicas":3}}`, "scale")
	if got := s.field(r, name, "spec", "replicas"); got != int64(3) || scale() != got {
		s.Errorf("after the patch of the scale there are to be %v replicas, not 3", got)
	}
	s.becomes(r, name, int64(3), "status", "replicas")
}

// statuses demands that an object's status can be read, updated and patched as
// a subresource, and that watchers and readers see it.
func (s *space) statuses(r schema.GroupVersionResource, name string, set map[string]string) {
	s.Helper()
	obj, err := s.of(r).Get(s.Context(), name, metav1.GetOptions{}, "status")
	s.ok(err)
	s.condition("the subresource is the object", obj.GetName() == name && obj.GetUID() != "" && obj.GetKind() != "Status", obj)
	w := s.watch(s.of(r), set)
	has := func(obj *unstructured.Unstructured, kind string) bool {
		conditions, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
		for _, c := range conditions {
			if c, ok := c.(map[string]any); ok && c["type"] == kind && c["status"] == "True" {
				return true
			}
		}
		return false
	}
	shows := func(kind string) {
		s.Helper()
		w.until("the status has the condition "+kind, func(e watch.Event) bool {
			obj, ok := e.Object.(*unstructured.Unstructured)
			return ok && e.Type == watch.Modified && obj.GetName() == name && has(obj, kind)
		})
	}
	s.update(r, name, func(obj map[string]any) error {
		conditions, _, err := unstructured.NestedSlice(obj, "status", "conditions")
		if err != nil {
			return err
		}
		return unstructured.SetNestedSlice(obj, append(conditions, map[string]any{
			"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "set by a test", "lastTransitionTime": "2026-01-02T03:04:05Z",
		}), "status", "conditions")
	}, "status")
	shows("StatusUpdate")
	s.patch(r, name, `{"status":{"conditions":[{"type":"StatusPatched","status":"True","reason":"E2E","message":"","lastTransitionTime":"2026-01-02T03:04:06Z"}]}}`, "status")
	shows("StatusPatched")
}

// collection demands that objects with the labels can be listed in all
// namespaces, patched, and deleted together.
func (s *space) collection(r schema.GroupVersionResource, want int, selector string) {
	s.Helper()
	everywhere := s.dynamic.Resource(r)
	options := metav1.ListOptions{LabelSelector: selector}
	list, err := everywhere.List(s.Context(), options)
	s.ok(err)
	if len(list.Items) != want {
		s.Fatalf("%d are listed, not %d", len(list.Items), want)
	}
	background := metav1.DeletePropagationBackground
	s.ok(s.of(r).DeleteCollection(s.Context(), metav1.DeleteOptions{PropagationPolicy: &background}, options))
	s.eventually("the collection is deleted", func(ctx context.Context) error {
		list, err := everywhere.List(ctx, options)
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d are left", len(list.Items))
		}
		return err
	})
}

// owner is the controller of an object, "" if it has none.
func owner(obj metav1.Object) string {
	if ref := metav1.GetControllerOf(obj); ref != nil {
		return ref.Kind + "/" + ref.Name
	}
	return ""
}
