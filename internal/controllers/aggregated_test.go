package controllers_test

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/garbagecollector"
	"skiff/internal/controllers/namespace"
	"skiff/internal/controllers/resourcequota"
)

var flunderKind = schema.GroupVersionKind{Group: "wardle.example.com", Version: "v1", Kind: "Flunder"}

// flunders are the resource of an extension server.
func flunders() *apiextensionsv1.CustomResourceDefinition {
	d := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "flunders.wardle.example.com"}}
	d.Spec.Group, d.Spec.Scope = flunderKind.Group, apiextensionsv1.NamespaceScoped
	d.Spec.Names = apiextensionsv1.CustomResourceDefinitionNames{Plural: "flunders", Kind: flunderKind.Kind}
	d.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{
		Name: flunderKind.Version, Served: true, Storage: true,
		Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}},
	}}
	return d
}

func flunder(namespace, name string, owners ...metav1.OwnerReference) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(flunderKind)
	u.SetNamespace(namespace)
	u.SetName(name)
	u.SetOwnerReferences(owners)
	return u
}

func ownedBy(o client.Object, kind schema.GroupVersionKind) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Name: o.GetName(), UID: o.GetUID()}
}

func untilGone(c *controllertest.Cluster, o client.Object, kind client.ObjectList) {
	c.Eventually("the end of "+o.GetName(), kind, func() bool {
		return apierrors.IsNotFound(c.Client.Get(context.Background(), client.ObjectKeyFromObject(o), o))
	})
}

// TestAggregatedObjects lets the controllers that are about objects of every
// kind see those of an extension server: first one that is there, then one that
// is not.
func TestAggregatedObjects(t *testing.T) {
	c := controllertest.Start(t)
	c.Run("generic-garbage-collector", func(d controller.Deps) (controller.Runnable, error) { return garbagecollector.New(d, c.Discover) })
	c.Run("namespace-controller", func(d controller.Deps) (controller.Runnable, error) { return namespace.New(d, c.Discover) })
	c.Run("resourcequota-controller", func(d controller.Deps) (controller.Runnable, error) { return resourcequota.New(d, c.Discover) })
	c.Namespace("team")
	const counted = "count/flunders.wardle.example.com"
	limit := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "few"}}
	limit.Spec.Hard = corev1.ResourceList{counted: resource.MustParse("5")}
	c.Create(limit)

	e, service := c.Extension(t, flunders())
	team := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}
	if err := e.Client.Create(t.Context(), team.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	flunderList := &unstructured.UnstructuredList{}
	flunderList.SetGroupVersionKind(flunderKind)

	used := func(n string) {
		t.Helper()
		c.Eventually(n+" flunders are used", &corev1.ResourceQuotaList{}, func() bool {
			q, ok := controllertest.Get(c, "team", "few", limit).Status.Used[counted]
			return ok && q.String() == n
		})
	}
	used("0")
	root := flunder("team", "root")
	c.Create(root)
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "config", OwnerReferences: []metav1.OwnerReference{ownedBy(root, flunderKind)}}}
	c.Create(config)
	leaf := flunder("team", "leaf", ownedBy(config, corev1.SchemeGroupVersion.WithKind("ConfigMap")))
	c.Create(leaf, flunder("team", "other"))
	c.Delete(flunder("team", "root"))
	untilGone(c, config, &corev1.ConfigMapList{})
	untilGone(c, leaf, flunderList)
	used("1")

	// Foreground deletion waits for objects of the other server.
	owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "owner"}}
	c.Create(owner)
	blocking := ownedBy(owner, corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	blocking.BlockOwnerDeletion = new(bool)
	*blocking.BlockOwnerDeletion = true
	held := flunder("team", "held", blocking)
	held.SetFinalizers([]string{"example.com/hold"})
	c.Create(held)
	c.Delete(owner.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationForeground))
	c.Eventually("the flunder is being deleted", flunderList, func() bool {
		return c.Client.Get(t.Context(), client.ObjectKeyFromObject(held), held) == nil && held.GetDeletionTimestamp() != nil
	})
	if err := c.Client.Get(t.Context(), client.ObjectKeyFromObject(owner), owner); err != nil {
		t.Errorf("the owner did not wait: %v", err)
	}
	held.SetFinalizers(nil)
	if err := c.Client.Update(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	untilGone(c, owner, &corev1.ConfigMapList{})

	c.Delete(team.DeepCopy())
	untilGone(c, team, &corev1.NamespaceList{})
	if err := e.Client.List(t.Context(), flunderList); err != nil || len(flunderList.Items) != 0 {
		t.Errorf("left by the namespace: %v, %v", flunderList.Items, err)
	}

	c.Namespace("late")
	late := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "late"}}
	if err := e.Stop(); err != nil {
		t.Fatal(err)
	}
	controllertest.Change(c, service, func(s *apiregistrationv1.APIService) { s.Spec.VersionPriority++ }) // look now
	c.WaitAvailable(t, service, apiregistrationv1.ConditionFalse)
	first := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "late", Name: "first"}}
	c.Create(first)
	second := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "late", Name: "second", OwnerReferences: []metav1.OwnerReference{ownedBy(first, corev1.SchemeGroupVersion.WithKind("ConfigMap"))}}}
	unknown := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "late", Name: "unknown", OwnerReferences: []metav1.OwnerReference{ownedBy(root, flunderKind)}}}
	c.Create(second, unknown)
	c.Delete(first.DeepCopy())
	untilGone(c, second, &corev1.ConfigMapList{})
	if err := c.Client.Get(t.Context(), client.ObjectKeyFromObject(unknown), unknown); err != nil {
		t.Errorf("an object whose owner cannot be looked for: %v", err)
	}
	c.Delete(late.DeepCopy())
	const want = "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: wardle.example.com/v1: stale GroupVersion discovery: wardle.example.com/v1"
	c.Eventually("the namespace says what is missing", &corev1.NamespaceList{}, func() bool {
		return slices.ContainsFunc(controllertest.Get(c, "", "late", late).Status.Conditions, func(n corev1.NamespaceCondition) bool {
			return n.Type == corev1.NamespaceDeletionDiscoveryFailure && n.Status == corev1.ConditionTrue && n.Reason == "DiscoveryFailed" && n.Message == want
		})
	})
	untilGone(c, unknown, &corev1.ConfigMapList{})
	c.Delete(service.DeepCopy())
	untilGone(c, late, &corev1.NamespaceList{})
}
