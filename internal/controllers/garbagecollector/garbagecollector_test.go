package garbagecollector_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/garbagecollector"
)

func start(t *testing.T) *controllertest.Cluster {
	t.Helper()
	c := controllertest.Start(t)
	c.Run("generic-garbage-collector", func(d controller.Deps) (controller.Runnable, error) { return garbagecollector.New(d, c.Discover) })
	return c
}

func configMap(name string, owners ...metav1.OwnerReference) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, OwnerReferences: owners}}
}

func owner(o client.Object, apiVersion, kind string) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: o.GetName(), UID: o.GetUID(), BlockOwnerDeletion: ptr.To(true)}
}

func mapOwner(o client.Object) metav1.OwnerReference { return owner(o, "v1", "ConfigMap") }

func gone(c *controllertest.Cluster, o client.Object) bool {
	err := c.Client.Get(context.Background(), client.ObjectKeyFromObject(o), o)
	return apierrors.IsNotFound(err)
}

func waitUntilGone(c *controllertest.Cluster, objects ...client.Object) {
	for _, o := range objects {
		c.Eventually("the end of "+o.GetName(), &corev1.ConfigMapList{}, func() bool { return gone(c, o) })
	}
}

func TestChainsAndCircles(t *testing.T) {
	c := start(t)
	first := configMap("first")
	c.Create(first)
	second := configMap("second", mapOwner(first))
	c.Create(second)
	third := configMap("third", mapOwner(second))
	c.Create(third)
	c.Delete(first.DeepCopy())
	waitUntilGone(c, first, second, third)

	var ring []*corev1.ConfigMap
	for i := range 3 {
		ring = append(ring, configMap(fmt.Sprintf("ring-%d", i)))
		c.Create(ring[i])
	}
	for i := range ring {
		controllertest.Change(c, ring[i], func(m *corev1.ConfigMap) { m.OwnerReferences = []metav1.OwnerReference{mapOwner(ring[(i+1)%3])} })
	}
	c.Delete(ring[0].DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationForeground))
	waitUntilGone(c, ring[0], ring[1], ring[2])
}

func TestSeveralOwners(t *testing.T) {
	c := start(t)
	going, staying := configMap("going"), configMap("staying")
	c.Create(going, staying)
	both, one := configMap("both", mapOwner(going), mapOwner(staying)), configMap("one", mapOwner(going))
	c.Create(both, one)
	c.Delete(going.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationForeground))
	waitUntilGone(c, going, one)
	c.Eventually("release", &corev1.ConfigMapList{}, func() bool {
		refs := controllertest.Get(c, "default", "both", both).OwnerReferences
		return len(refs) == 1 && refs[0].UID == staying.UID
	})
	if both.DeletionTimestamp != nil {
		t.Error("an object with an owner that stays is deleted")
	}
}

func TestBadReferences(t *testing.T) {
	c := start(t)
	c.Namespace("other")
	real := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "real"}}
	c.Create(real)
	absent := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "absent", UID: "absent"}
	wrongName := mapOwner(real)
	wrongName.Name = "unreal"
	elsewhere := configMap("elsewhere", mapOwner(real))
	unknown := configMap("unknown", metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Nothing", Name: "n", UID: "n"})
	lost := configMap("lost", absent)
	renamed := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "renamed", OwnerReferences: []metav1.OwnerReference{wrongName}}}
	global := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "global", OwnerReferences: []metav1.OwnerReference{mapOwner(real)}}}
	c.Create(unknown, global, lost, renamed, elsewhere)
	waitUntilGone(c, lost, renamed, elsewhere)
	for object, namespace := range map[string]string{"elsewhere": "default", "global": ""} {
		ref := mapOwner(real)
		want := fmt.Sprintf("ownerRef %s does not exist in namespace %q", ref.String(), namespace)
		if got := c.WaitForEvent("default", object, "OwnerRefInvalidNamespace"); got != want {
			t.Errorf("%s: event %q, want %q", object, got, want)
		}
	}
	if gone(c, unknown) || gone(c, global) || gone(c, real) {
		t.Error("an object is gone of whose owner nothing is known")
	}
}

func boats() *apiextensionsv1.CustomResourceDefinition {
	schema := &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "boats.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names:    apiextensionsv1.CustomResourceDefinitionNames{Plural: "boats", Singular: "boat", Kind: "Boat", ListKind: "BoatList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: schema}}},
		},
	}
}

// established waits until the definition is in force.
func established(c *controllertest.Cluster, name string) {
	crd := &apiextensionsv1.CustomResourceDefinition{}
	c.Eventually("the definition is in force", &apiextensionsv1.CustomResourceDefinitionList{}, func() bool {
		for _, condition := range controllertest.Get(c, "", name, crd).Status.Conditions {
			if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
				return true
			}
		}
		return false
	})
}

// TestAbsentKinds are kinds that go while another server does not answer, so
// that what is served is known in part only.
func TestAbsentKinds(t *testing.T) {
	c := start(t)
	away := &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1.away.example.com"}}
	away.Spec = apiregistrationv1.APIServiceSpec{
		Group: "away.example.com", Version: "v1", GroupPriorityMinimum: 2000, VersionPriority: 10, InsecureSkipTLSVerify: true,
		Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "away"},
	}
	crd := boats()
	c.Create(away, crd)
	established(c, crd.Name)
	ship := &unstructured.Unstructured{}
	ship.SetAPIVersion("example.com/v1")
	ship.SetKind("Boat")
	ship.SetNamespace("default")
	ship.SetName("ship")
	c.Create(ship)
	cargo := configMap("cargo", owner(ship, "example.com/v1", "Boat"))
	c.Create(cargo)
	c.Delete(ship)
	waitUntilGone(c, cargo) // the collector knows of boats
	c.Delete(crd)
	c.Eventually("the end of the definition", &apiextensionsv1.CustomResourceDefinitionList{}, func() bool { return gone(c, crd) })
	for _, how := range []metav1.DeletionPropagation{metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
		object := configMap(strings.ToLower(string(how)))
		c.Create(object)
		c.Delete(object, client.PropagationPolicy(how))
		waitUntilGone(c, object)
	}
}

// TestCustomResources are owners and dependents of kinds that did not exist
// when the collector started.
func TestCustomResources(t *testing.T) {
	c := start(t)
	c.Create(boats())
	established(c, boats().Name)
	boat := func(name string, owners ...metav1.OwnerReference) *unstructured.Unstructured {
		b := &unstructured.Unstructured{}
		b.SetAPIVersion("example.com/v1")
		b.SetKind("Boat")
		b.SetNamespace("default")
		b.SetName(name)
		b.SetOwnerReferences(owners)
		return b
	}
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion("example.com/v1")
	list.SetKind("BoatList")

	ship := boat("ship")
	c.Create(ship)
	dinghy := boat("dinghy", owner(ship, "example.com/v1", "Boat"))
	cargo := configMap("cargo", owner(ship, "example.com/v1", "Boat"))
	c.Create(dinghy, cargo)
	harbour := configMap("harbour")
	c.Create(harbour)
	moored := boat("moored", mapOwner(harbour))
	c.Create(moored)

	c.Delete(ship.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationForeground))
	c.Delete(harbour.DeepCopy())
	waitUntilGone(c, cargo)
	for _, b := range []*unstructured.Unstructured{ship, dinghy, moored} {
		c.Eventually("the end of "+b.GetName(), list, func() bool {
			fresh := boat(b.GetName())
			return apierrors.IsNotFound(c.Client.Get(context.Background(), types.NamespacedName{Namespace: "default", Name: b.GetName()}, fresh))
		})
	}
}
