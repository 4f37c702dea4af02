package conformance

import (
	"fmt"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// strict is the path of a request that refuses what it does not know.
func strict(path string) string {
	return path + "?fieldManager=field_validation_mgr&fieldValidation=Strict"
}

// deploy posts a Deployment whose metadata and spec have further fields.
func (s *server) deploy(metadata, spec string) (int, string) {
	s.Helper()
	code, _, body := s.request("POST", strict("/apis/apps/v1/namespaces/"+s.ns+"/deployments"), fmt.Sprintf(`{
		"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"dep",%s"labels":{"app":"nginx"}},
		"spec":{%s"selector":{"matchLabels":{"app":"nginx"}},
			"template":{"metadata":{"labels":{"app":"nginx"}},"spec":{"containers":[{"name":"nginx","image":"nginx:latest"}]}}}}`, metadata, spec))
	return code, body
}

const cronSchema = `
type: object
properties:
  spec:
    type: object%s
    properties:
      foo: {type: string}
      cronSpec: {type: string, pattern: '^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$'}
      ports:
        type: array
        x-kubernetes-list-type: map
        x-kubernetes-list-map-keys: [containerPort, protocol]
        items:
          type: object
          required: [containerPort, protocol]
          properties:
            containerPort: {type: integer, format: int32}
            hostIP: {type: string}
            hostPort: {type: integer, format: int32}
            name: {type: string}
            protocol: {type: string}
`

const preserved = `
    x-kubernetes-preserve-unknown-fields: true`

const embedded = preserved + `
    properties:
      template:
        type: object
        x-kubernetes-embedded-resource: true
        properties:
          metadata: {type: object, properties: {name: {type: string}}}
          spec: {type: object}
`

// noxus is a definition for the whole cluster, with two versions.
func (s *server) noxus(schema string) *apiextensionsv1.CustomResourceDefinition {
	s.Helper()
	crd := s.definition("noxus", schema, "v1beta1", "v0")
	crd.Spec.Scope = apiextensionsv1.ClusterScoped
	return s.establish(crd)
}

// applies applies an object in YAML: metadata and spec have further lines.
func (s *server) applies(crd *apiextensionsv1.CustomResourceDefinition, root, metadata, spec string) (int, string) {
	s.Helper()
	code, _, body := s.request("PATCH", strict("/apis/"+crd.Spec.Group+"/v1beta1/noxus/mytest"), fmt.Sprintf(`
apiVersion: %s/v1beta1
kind: Noxu
metadata:
  name: mytest
%s  finalizers: [test-finalizer]
%sspec:
%s  cronSpec: "* * * * */5"
  ports:
  - {name: x, containerPort: 80, protocol: TCP}
`, crd.Spec.Group, metadata, root, spec), "Content-Type", "application/apply-patch+yaml")
	return code, body
}

// says demands an answer with the code that contains all of texts.
func (s *server) says(code int, body string, want int, texts ...string) {
	s.Helper()
	for _, text := range texts {
		// The message is a string in JSON.
		quoted := strings.ReplaceAll(text, `"`, `\"`)
		if !strings.Contains(body, quoted) {
			s.Errorf("the answer does not say %s: %s", text, body)
		}
	}
	if code != want {
		s.Errorf("%d, not %d: %s", code, want, body)
	}
}

var fieldValidation = entries{
	"should detect unknown and duplicate fields of a typed object": func(s *server) {
		code, body := s.deploy("", `"unknownField":"foo","replicas":2,"replicas":3,`)
		s.says(code, body, 400, `strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas"`)
	},
	"should detect unknown metadata fields of a typed object": func(s *server) {
		code, body := s.deploy(`"unknownMeta":"foo",`, "")
		s.says(code, body, 400, `strict decoding error: unknown field "metadata.unknownMeta"`)
	},
	"should create/apply a valid CR for CRD with validation schema": func(s *server) {
		code, body := s.applies(s.noxus(fmt.Sprintf(cronSchema, "")), "", "", "  foo: foo1\n")
		s.says(code, body, 201)
	},
	"should create/apply a CR with unknown fields for CRD with no validation schema": func(s *server) {
		code, body := s.applies(s.noxus(""), "", "", "  unknown: uk1\n")
		s.says(code, body, 201, "uk1")
	},
	"should create/apply an invalid CR with extra properties for CRD with validation schema": func(s *server) {
		code, body := s.applies(s.noxus(fmt.Sprintf(cronSchema, "")), "unknownField: unknown\n", "", "  foo: foo1\n")
		s.says(code, body, 500, ".unknownField: field not declared in schema")
	},
	"should detect unknown metadata fields in both the root and embedded object of a CR": func(s *server) {
		schema := strings.Replace(fmt.Sprintf(cronSchema, embedded), "    properties:\n      foo:", "      foo:", 1)
		crd := s.noxus(schema)
		const template = `  template:
    apiversion: foo/v1
    kind: Sub
    metadata: {unknownSubMeta: unknown, name: subobject, namespace: default}
  foo: foo1
`
		code, body := s.applies(crd, "", "  unknownMeta: unknown\n", template)
		s.says(code, body, 500, ".metadata.unknownMeta: field not declared in schema")
		code, body = s.applies(crd, "", "", template)
		s.says(code, body, 500, `.spec.template.metadata.unknownSubMeta: field not declared in schema`)
	},
	"should detect duplicates in a CR when preserving unknown fields": func(s *server) {
		crd := s.noxus(fmt.Sprintf(cronSchema, preserved))
		code, body := s.applies(crd, "", "", "  foo: foo1\n  foo: foo2\n  unknown: uk1\n  unknown: uk2\n")
		s.says(code, body, 400, `line 9: key "foo" already set in map`, `line 11: key "unknown" already set in map`)
	},
}
