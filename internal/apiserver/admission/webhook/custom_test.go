package webhook_test

import (
	"context"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// define makes a resource with two versions; v1 is stored, and both drop what
// their schema does not know.
func (e *env) define() {
	e.t.Helper()
	version := func(name string, storage bool) string {
		s := `{name: ` + name + `, served: true, storage: ` + map[bool]string{true: "true", false: "false"}[storage] + `, schema: {openAPIV3Schema: {type: object, properties: {
			data: {type: object, properties: {first: {type: string}, second: {type: string}, "on": {type: string}, defaulted: {type: string, default: here}}}}}}}`
		return strings.ReplaceAll(s, "\t", " ")
	}
	text := `
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList}
  versions: [` + version("v1", true) + `, ` + version("v2", false) + `]
`
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.Unmarshal([]byte(text), crd); err != nil {
		e.t.Fatal(err)
	}
	if err := e.create(crd); err != nil {
		e.t.Fatal(err)
	}
	err := wait.PollUntilContextTimeout(e.t.Context(), 5*time.Millisecond, 20*time.Second, true, func(ctx context.Context) (bool, error) {
		err := e.Client.Get(ctx, client.ObjectKeyFromObject(crd), crd)
		for _, c := range crd.Status.Conditions {
			if c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue {
				return true, nil
			}
		}
		return false, err
	})
	if err != nil {
		e.t.Fatal(err)
	}
}

func widget(version, name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/" + version, "kind": "Widget", "metadata": map[string]any{"namespace": "default", "name": name},
		"data": map[string]any{"on": "yes"},
	}}
}

func TestCustomResources(t *testing.T) {
	e := start(t)
	e.define()
	remote, err := client.New(e.Config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mutating := e.mutating("a", false, e.hook("first", patches(`[{"op": "add", "path": "/data/first", "value": "yes"}, {"op": "add", "path": "/data/unknown", "value": "pruned"}, {"op": "remove", "path": "/data/defaulted"}]`), rule("widgets.v1.example.com", "CREATE", "UPDATE")))
	w := widget("v1", "x")
	if err := remote.Create(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	data := w.Object["data"].(map[string]any)
	if data["first"] != "yes" || data["on"] != "yes" || data["defaulted"] != "here" || data["unknown"] != nil {
		t.Errorf("got %v", data)
	}
	// A request in the other version is shown in the webhook's.
	e.took()
	w = widget("v2", "y")
	if err := remote.Create(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	if data := w.Object["data"].(map[string]any); w.GetAPIVersion() != "example.com/v2" || data["first"] != "yes" || data["on"] != "yes" {
		t.Errorf("got %v", w.Object)
	}
	requests, _ := e.took()
	if len(requests) != 1 || requests[0].Kind.Version != "v1" || requests[0].RequestKind.Version != "v2" || !strings.Contains(string(requests[0].Object.Raw), `"apiVersion":"example.com/v1"`) {
		t.Errorf("got %+v", requests)
	}
	if err := remote.Patch(t.Context(), w, client.RawPatch("application/merge-patch+json", []byte(`{"data":{"first":"no"}}`))); err != nil {
		t.Fatal(err)
	}
	if data := w.Object["data"].(map[string]any); data["first"] != "yes" {
		t.Errorf("a patch is not mutated: %v", data)
	}
	if err := e.Client.Delete(t.Context(), mutating); err != nil {
		t.Fatal(err)
	}
	e.validating("b", e.hook("deny", func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		if raw := string(r.Object.Raw) + string(r.OldObject.Raw); strings.Contains(raw, `"on":"yes"`) {
			return deny("the custom resource contains unwanted data")(r)
		}
		return allow(r)
	}, rule("widgets.v1.example.com", "*")))
	const refused = `admission webhook "deny.example.com" denied the request: the custom resource contains unwanted data`
	e.want(remote.Create(t.Context(), widget("v1", "z")), refused)
	e.want(remote.Delete(t.Context(), widget("v1", "x")), refused)
	e.want(remote.Patch(t.Context(), widget("v2", "y"), client.RawPatch("application/merge-patch+json", []byte(`{"data":{"second":"x"}}`))), refused)

	// Definitions can be refused too.
	e.validating("c", e.hook("crds", deny("no definitions"), rule("customresourcedefinitions.v1.apiextensions.k8s.io", "CREATE")))
	e.want(e.create(&apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "gadgets.example.com"}, Spec: apiextensionsv1.CustomResourceDefinitionSpec{
		Group: "example.com", Scope: "Cluster", Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "gadgets", Kind: "Gadget"},
		Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
			OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}}}},
	}}), "no definitions")
}

func TestCustomParameters(t *testing.T) {
	e := start(t)
	e.define()
	for _, obj := range []client.Object{
		widget("v1", "p"),
		&admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			ParamKind: &admissionregistrationv1.ParamKind{APIVersion: "example.com/v2", Kind: "Widget"},
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{
				{RuleWithOperations: rule("configmaps", "CREATE")}, {RuleWithOperations: rule("widgets.v2.example.com", "CREATE")}}},
			Validations: []admissionregistrationv1.Validation{{Expression: "params.apiVersion == 'example.com/v2' && object.data.a == params.data.on"}},
		}},
		&admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: "p", ValidationActions: []admissionregistrationv1.ValidationAction{"Deny"},
			ParamRef: &admissionregistrationv1.ParamRef{Name: "p", ParameterNotFoundAction: new(admissionregistrationv1.DenyAction)},
		}},
		&admissionregistrationv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
			ReinvocationPolicy: "Never",
			MatchConstraints:   &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: rule("widgets.v1.example.com", "CREATE")}}},
			Mutations:          []admissionregistrationv1.Mutation{{PatchType: "ApplyConfiguration", ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{Expression: "Object{data: Object.data{second: object.data.on + '!'}}"}}},
		}},
		&admissionregistrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "p"}},
	} {
		if err := e.create(obj); err != nil {
			t.Fatal(err)
		}
	}
	e.want(e.create(configMap("x")), "failed expression")
	cm := configMap("x")
	cm.Data["a"] = "yes"
	e.want(e.create(cm), "")
	w := widget("v1", "x")
	w.Object["data"] = map[string]any{"on": "yes"}
	e.want(e.create(w), "no such key: a")
	if err := e.Client.Delete(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "p"}}); err != nil {
		t.Fatal(err)
	}
	e.want(e.create(w), "")
	if second, _, _ := unstructured.NestedString(w.Object, "data", "second"); second != "yes!" {
		t.Errorf("got %v", w.Object)
	}
}
