package api

import (
	"fmt"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster"
	"skiff/internal/cluster/testcluster"
	"skiff/internal/store/etcd/member/membertest"
)

// etcd runs an etcd until the test ends.
func etcd(t *testing.T) cluster.DatastoreConfig {
	t.Helper()
	o := membertest.Options(t, "etcd")
	membertest.Start(t, o)
	return cluster.DatastoreConfig{Endpoints: []string{o.ClientURL}}
}

func definition(plural, kind string) *apiextensionsv1.CustomResourceDefinition {
	d := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: plural + ".example.com"}}
	d.Spec.Group, d.Spec.Scope = "example.com", apiextensionsv1.NamespaceScoped
	d.Spec.Names = apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Kind: kind}
	preserve := true
	d.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{
		Name: "v1", Served: true, Storage: true,
		Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &preserve}},
	}}
	return d
}

// TestDefinitionsOfSeveralServers uses what one server has established through
// another, at once.
func TestDefinitionsOfSeveralServers(t *testing.T) {
	store := etcd(t)
	one := sharing(t, store)
	two := sharing(t, store)
	for i := range 20 {
		from, to := one, two
		if i%2 == 1 {
			from, to = to, from
		}
		plural, kind := fmt.Sprintf("things%d", i), fmt.Sprintf("Thing%d", i)
		d := definition(plural, kind)
		if err := from.Client.Create(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		from.Wait(t, plural+" established", &apiextensionsv1.CustomResourceDefinitionList{}, func() bool {
			if err := from.Client.Get(t.Context(), client.ObjectKeyFromObject(d), d); err != nil {
				return false
			}
			for _, c := range d.Status.Conditions {
				if c.Type == apiextensionsv1.Established {
					return c.Status == apiextensionsv1.ConditionTrue
				}
			}
			return false
		})
		over, err := dynamic.NewForConfig(to.Config)
		if err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{}
		u.SetAPIVersion("example.com/v1")
		u.SetKind(kind)
		u.SetName("a")
		gvr := schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: plural}
		if _, err := over.Resource(gvr).Namespace("default").Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
			t.Fatalf("definition %d: %v", i, err)
		}
	}
}

func sharing(t *testing.T, store cluster.DatastoreConfig) *testcluster.Cluster {
	t.Helper()
	return testcluster.StartWith(t, cluster.ServerConfig{Datastore: store})
}
