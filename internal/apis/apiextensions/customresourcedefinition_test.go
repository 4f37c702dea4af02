package apiextensions

import (
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"skiff/internal/apis/checks/checkstest"
)

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
		change("no schema", func(d *crd) { d.Spec.Versions[0].Schema = nil }, "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required"),
		change("no object", func(d *crd) { d.Spec.Versions[0].Schema.OpenAPIV3Schema.Type = "string" },
			"spec.versions[0].schema.openAPIV3Schema.type: Invalid value: must be object at the root"),
		change("scale", func(d *crd) {
			d.Spec.Versions[0].Subresources = &apiextensionsv1.CustomResourceSubresources{Scale: &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: "replicas", StatusReplicasPath: ".status.n"}}
		}, "spec.versions[0].subresources.scale.specReplicasPath: Invalid value: should be a json path under .spec."),
		change("list kind", func(d *crd) { d.Spec.Names.ListKind = "Boat" }, "spec.names.listKind: Invalid value: kind and listKind may not be the same"),
		change("webhook", func(d *crd) { d.Spec.Conversion.Strategy = "Webhook" },
			"spec.conversion.webhook.clientConfig: Required value: required when strategy is set to Webhook"),
	)
	valid.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}}
	checkstest.Update(t, r, valid,
		change("scope", func(d *crd) { d.Spec.Scope = "Cluster" }, "spec.scope: Invalid value: field is immutable"),
		change("storage version gone", func(d *crd) { d.Spec.Versions[0].Name = "v2" },
			"status.storedVersions: Invalid value: must have the storage version v2",
			"status.storedVersions[0]: Invalid value: missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions"),
	)
}
