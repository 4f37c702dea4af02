package api

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// object is a schema with properties.
func object(properties map[string]apiextensionsv1.JSONSchemaProps) apiextensionsv1.JSONSchemaProps {
	return apiextensionsv1.JSONSchemaProps{Type: "object", Properties: properties, Description: "an object of an operator"}
}

// deep is a schema as operators generate them from Go types: objects in lists
// in objects, with long descriptions.
func deep(levels, fields int) apiextensionsv1.JSONSchemaProps {
	properties := map[string]apiextensionsv1.JSONSchemaProps{}
	for i := range fields {
		limit := int64(100)
		properties[fmt.Sprintf("field%d", i)] = apiextensionsv1.JSONSchemaProps{
			Type: "string", MaxLength: &limit, Description: strings.Repeat("what this field is for, at length; ", 6),
		}
	}
	if levels > 0 {
		item := deep(levels-1, fields)
		limit := int64(4)
		properties["items"] = apiextensionsv1.JSONSchemaProps{Type: "array", MaxItems: &limit, Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &item}}
		properties["nested"] = deep(levels-1, fields)
	}
	return object(properties)
}

// operated is a definition in the shape of those of well-known operators:
// three versions, a large schema, free-form parts, rules, a status, a scale and
// columns.
func operated(plural, kind string, fields int) *apiextensionsv1.CustomResourceDefinition {
	yes, limit := true, int64(10)
	name := apiextensionsv1.JSONSchemaProps{Type: "string", MaxLength: &limit}
	endpoint := object(map[string]apiextensionsv1.JSONSchemaProps{"name": name, "port": {XIntOrString: true}})
	endpoint.Required = []string{"name"}
	key := "map"
	spec := object(map[string]apiextensionsv1.JSONSchemaProps{
		"replicas": {Type: "integer", Format: "int32", Default: &apiextensionsv1.JSON{Raw: []byte("1")}},
		"values":   {Type: "object", XPreserveUnknownFields: &yes},
		"template": {Type: "object", XEmbeddedResource: true, XPreserveUnknownFields: &yes},
		"size":     {Type: "string", MaxLength: &limit, Default: &apiextensionsv1.JSON{Raw: []byte(`"1Gi"`)}},
		"deep":     deep(3, fields),
		"endpoints": {
			Type: "array", MaxItems: &limit, XListType: &key, XListMapKeys: []string{"name"},
			Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &endpoint},
		},
	})
	spec.XValidations = apiextensionsv1.ValidationRules{
		{Rule: "quantity(self.size).compareTo(quantity('100Gi')) <= 0", MessageExpression: "'size ' + self.size + ' is too large'", FieldPath: ".size"},
		{Rule: "!has(oldSelf.endpoints) || has(self.endpoints)", Message: "endpoints must stay"},
	}
	root := object(map[string]apiextensionsv1.JSONSchemaProps{
		"spec":   spec,
		"status": {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"replicas": {Type: "integer"}, "phase": {Type: "string"}}},
	})
	d := definition(plural, kind)
	d.Spec.Versions = nil
	for _, version := range []string{"v1alpha1", "v1beta1", "v1"} {
		d.Spec.Versions = append(d.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{
			Name: version, Served: true, Storage: version == "v1beta1",
			Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: root.DeepCopy()},
			Subresources: &apiextensionsv1.CustomResourceSubresources{
				Status: &apiextensionsv1.CustomResourceSubresourceStatus{},
				Scale:  &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: ".spec.replicas", StatusReplicasPath: ".status.replicas"},
			},
			AdditionalPrinterColumns: []apiextensionsv1.CustomResourceColumnDefinition{{Name: "Phase", Type: "string", JSONPath: ".status.phase"}},
		})
	}
	return d
}

// convert answers conversion reviews: the versions differ in where they were
// converted from.
func convert(w http.ResponseWriter, r *http.Request) {
	review := &apiextensionsv1.ConversionReview{}
	if err := json.NewDecoder(r.Body).Decode(review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	review.Response = &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(raw.Raw); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		from := u.GetAPIVersion()
		u.SetAPIVersion(review.Request.DesiredAPIVersion)
		annotations := u.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations["converted-from"] = from
		u.SetAnnotations(annotations)
		review.Response.ConvertedObjects = append(review.Response.ConvertedObjects, runtime.RawExtension{Object: u})
	}
	review.Request = nil
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(review)
}

// TestOperator does what operators do, by the libraries that they use, with
// definitions of their size.
func TestOperator(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	hook := httptest.NewUnstartedServer(http.HandlerFunc(convert))
	hook.Config.ErrorLog = log.New(io.Discard, "", 0)
	hook.StartTLS()
	t.Cleanup(hook.Close)
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw})
	c, err := client.New(s.Config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c = client.NewNamespacedClient(c, "default")
	if err := apiextensionsv1.AddToScheme(c.Scheme()); err != nil {
		t.Fatal(err)
	}
	total := 0
	for i := range 4 {
		d := operated(fmt.Sprintf("clusters%d", i), fmt.Sprintf("Cluster%d", i), 106)
		if i == 0 {
			d.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
				ConversionReviewVersions: []string{"v1"}, ClientConfig: &apiextensionsv1.WebhookClientConfig{URL: &hook.URL, CABundle: bundle},
			}}
		}
		d.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		total += len(text)
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(text); err != nil {
			t.Fatal(err)
		}
		unstructured.RemoveNestedField(u.Object, "status")
		unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
		if err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner("helm"), client.ForceOwnership); err != nil {
			t.Fatal(err)
		}
		s.Wait(t, d.Name+" established", &apiextensionsv1.CustomResourceDefinitionList{}, func() bool { return isEstablished(s, d.Name) })
	}
	if total < 5e6 {
		t.Errorf("the definitions are only %d bytes", total)
	}

	informers, err := cache.New(s.Config, cache.Options{})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	go func() { _ = informers.Start(running) }()
	kind := schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Cluster0"}
	watched := &unstructured.Unstructured{}
	watched.SetGroupVersionKind(kind)
	informer, err := informers.GetInformer(ctx, watched)
	if err != nil {
		t.Fatal(err)
	}
	phases := make(chan string, 16)
	if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{UpdateFunc: func(_, o any) {
		phase, _, _ := unstructured.NestedString(o.(*unstructured.Unstructured).Object, "status", "phase")
		phases <- phase
	}}); err != nil {
		t.Fatal(err)
	}

	made := func(name string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{
			"values":    map[string]any{"anything": []any{"goes", int64(1)}},
			"template":  map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "p"}, "spec": map[string]any{"x": int64(1)}},
			"endpoints": []any{map[string]any{"name": "http", "port": int64(80)}, map[string]any{"name": "admin", "port": "http"}},
			"deep":      map[string]any{"items": []any{map[string]any{"nested": map[string]any{"field1": "x"}}}},
		}}}
		u.SetGroupVersionKind(kind)
		u.SetName(name)
		return u
	}
	a := made("a")
	if err := c.Create(ctx, a); err != nil {
		t.Fatal(err)
	}
	if n, _, _ := unstructured.NestedInt64(a.Object, "spec", "replicas"); n != 1 {
		t.Errorf("defaults are missing: %v", a.Object["spec"])
	}
	if a.GetAnnotations()["converted-from"] != "example.com/v1beta1" {
		t.Errorf("not what the webhook made of the stored object: %v", a.GetAnnotations())
	}
	tooLarge := made("b")
	_ = unstructured.SetNestedField(tooLarge.Object, "200Gi", "spec", "size")
	if err := c.Create(ctx, tooLarge); err == nil || !strings.Contains(err.Error(), `spec.size: Invalid value: size 200Gi is too large`) {
		t.Errorf("a rule: %v", err)
	}

	patch := client.MergeFrom(a.DeepCopy())
	_ = unstructured.SetNestedField(a.Object, "Ready", "status", "phase")
	if err := c.Status().Patch(ctx, a, patch); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for phase := ""; phase != "Ready"; {
		select {
		case phase = <-phases:
		case <-ctx.Done():
			t.Fatal("the informer does not tell of the status")
		}
	}

	applied := &unstructured.Unstructured{}
	applied.SetGroupVersionKind(kind)
	applied.SetName("a")
	_ = unstructured.SetNestedSlice(applied.Object, []any{map[string]any{"name": "http", "port": int64(8080)}}, "spec", "endpoints")
	if err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(applied.DeepCopy()), client.FieldOwner("other")); err == nil || !strings.Contains(err.Error(), `.spec.endpoints[name="http"].port`) {
		t.Errorf("applying what another owns: %v", err)
	}
	if err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(applied), client.FieldOwner("other"), client.ForceOwnership); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(ctx, client.ObjectKeyFromObject(a), a); err != nil {
		t.Fatal(err)
	}
	if endpoints, _, _ := unstructured.NestedSlice(a.Object, "spec", "endpoints"); len(endpoints) != 2 || endpoints[0].(map[string]any)["port"] != int64(8080) {
		t.Errorf("applied endpoints are %v", endpoints)
	}
	older := &unstructured.Unstructured{}
	older.SetAPIVersion("example.com/v1alpha1")
	older.SetKind("Cluster0")
	if err := c.Get(ctx, client.ObjectKeyFromObject(a), older); err != nil || older.GetAPIVersion() != "example.com/v1alpha1" || older.GetAnnotations()["converted-from"] == "" {
		t.Errorf("in another version: %v, %v", older.Object, err)
	}

	m, err := metadata.NewForConfig(metadata.ConfigFor(s.Config))
	if err != nil {
		t.Fatal(err)
	}
	list, err := m.Resource(kind.GroupVersion().WithResource("clusters0")).Namespace("default").List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "a" {
		t.Errorf("metadata: %v, %v", list, err)
	}
	if err := c.DeleteAllOf(ctx, made("")); err != nil {
		t.Fatal(err)
	}
}

func isEstablished(s *server, name string) bool {
	d := &apiextensionsv1.CustomResourceDefinition{}
	if err := s.Client.Get(s.Context(), client.ObjectKey{Name: name}, d); err != nil {
		return false
	}
	for _, c := range d.Status.Conditions {
		if c.Type == apiextensionsv1.Established {
			return c.Status == apiextensionsv1.ConditionTrue
		}
	}
	return false
}
