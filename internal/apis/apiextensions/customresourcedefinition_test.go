package apiextensions

import (
	"slices"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"skiff/internal/apis/checks/checkstest"
)

const simpler = " (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"

func object(spec apiextensionsv1.JSONSchemaProps) *apiextensionsv1.CustomResourceValidation {
	return &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
		Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"spec": spec},
	}}
}

func rule(text string) apiextensionsv1.JSONSchemaProps {
	return apiextensionsv1.JSONSchemaProps{
		Type: "object",
		Properties: map[string]apiextensionsv1.JSONSchemaProps{"list": {
			Type: "array", Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &apiextensionsv1.JSONSchemaProps{Type: "string"}},
		}},
		XValidations: apiextensionsv1.ValidationRules{{Rule: text}},
	}
}

func TestDeletionAwaitsCleanup(t *testing.T) {
	r := checkstest.Find(t, Resources(), "customresourcedefinitions")
	d := &definition{}
	if !r.BeforeDelete(d) || !slices.Contains(d.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) || d.Status.Conditions[0].Reason != "InstanceDeletionPending" {
		t.Errorf("deletion that begins leaves %+v", d)
	}
	d.Finalizers = nil
	if r.BeforeDelete(d) {
		t.Error("a definition stays though its objects are cleaned up")
	}
}

func TestCustomResourceDefinition(t *testing.T) {
	type crd = apiextensionsv1.CustomResourceDefinition
	change := checkstest.Change[*crd]
	r := checkstest.Find(t, Resources(), "customresourcedefinitions")
	valid := checkstest.Parse[*crd](t, r, `
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
`)
	valid.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
	r.PrepareCreate(t.Context(), valid)
	if n := valid.Spec.Names; n.Singular != "boat" || n.ListKind != "BoatList" || valid.Spec.Conversion.Strategy != apiextensionsv1.NoneConverter || len(valid.Status.StoredVersions) != 1 {
		t.Errorf("wrong defaults: %+v", valid)
	}
	checkstest.Create(t, r, valid,
		change("name", func(d *crd) { d.Name = "boats" }, `metadata.name: Invalid value: must be spec.names.plural+"."+spec.group`),
		change("scope", func(d *crd) { d.Spec.Scope = "Galaxy" }, `spec.scope: Unsupported value: supported values: "Cluster", "Namespaced"`),
		change("no storage", func(d *crd) { d.Spec.Versions[0].Storage = false }, "spec.versions: Invalid value: must have exactly one version marked as storage version"),
		change("no schema", func(d *crd) { d.Spec.Versions[0].Schema = nil }, "spec.versions[0].schema.openAPIV3Schema: Required value: "),
		change("no object", func(d *crd) { d.Spec.Versions[0].Schema.OpenAPIV3Schema.Type = "string" },
			"spec.validation.openAPIV3Schema.type: Invalid value: must be object at the root"),
		change("scale", func(d *crd) {
			d.Spec.Versions[0].Subresources = &apiextensionsv1.CustomResourceSubresources{Scale: &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: "replicas", StatusReplicasPath: ".status.n"}}
		}, "spec.subresources.scale.specReplicasPath: Invalid value: must be a simple json path starting with ."),
		change("list kind", func(d *crd) { d.Spec.Names.ListKind = "Boat" }, "spec.names.listKind: Invalid value: kind and listKind may not be the same"),
		change("webhook", func(d *crd) { d.Spec.Conversion.Strategy = "Webhook" },
			"spec.conversion.conversionReviewVersions: Required value: ", "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook"),
		change("not structural", func(d *crd) {
			d.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties = map[string]apiextensionsv1.JSONSchemaProps{"spec": {}}
		}, "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields"),
		change("rule that does not compile", func(d *crd) { d.Spec.Versions[0].Schema = object(rule("self.x > 1")) },
			"spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value: compilation failed: ERROR: <input>:1:5: undefined field 'x'\n | self.x > 1\n | ....^"),
		change("rule that costs too much", func(d *crd) {
			d.Spec.Versions[0].Schema = object(rule("self.list.all(a, self.list.all(b, self.list.all(c, a + b + c != '')))"))
		}, "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema",
			"spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x"+simpler,
			"spec.validation.openAPIV3Schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x"+simpler),
		change("a group of the community's", func(d *crd) { d.Spec.Group, d.Name = "x.k8s.io", "boats.x.k8s.io" },
			"metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111"),
	)
	formats := valid.DeepCopy()
	formats.Spec.Versions[0].Schema = object(apiextensionsv1.JSONSchemaProps{Type: "string", Format: "soup"})
	if got := r.Warnings(t.Context(), formats, nil); !slices.Equal(got, []string{`unrecognized format "soup"`}) {
		t.Errorf("warnings of a format: %q", got)
	}
	if got := r.Warnings(t.Context(), formats, formats); len(got) > 0 {
		t.Errorf("warnings of a format that was there: %q", got)
	}
	valid.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}}
	checkstest.Update(t, r, valid,
		change("scope", func(d *crd) { d.Spec.Scope = "Cluster" }, "spec.scope: Invalid value: field is immutable"),
		change("storage version gone", func(d *crd) { d.Spec.Versions[0].Name = "v2" },
			"status.storedVersions: Invalid value: must have the storage version v2",
			"status.storedVersions[0]: Invalid value: missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions"),
	)
}
