package api

import (
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

const foos = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: foos.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: foos, kind: Foo, shortNames: [fo]}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        description: Foo is for tests.
        properties:
          spec:
            type: object
            description: What a Foo should be.
            required: [bars]
            properties:
              bars:
                type: array
                description: The bars of a Foo.
                items:
                  type: object
                  required: [name]
                  properties:
                    name: {type: string, description: The name of a bar.}
                    age: {type: integer, minimum: 1}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true, description: Anything goes.}
              inner: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
  - name: v2
    served: true
    storage: false
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// TestKubectlKnowsCustomResources is what kubectl makes of the published
// schemas: explanations, and checks of manifests.
func TestKubectlKnowsCustomResources(t *testing.T) {
	s := start(t)
	k := newKubectl(t, s)
	k.ok("", "create namespace kubectl")
	k.ok(foos, "create -f -", "foos.example.com created")
	s.Wait(t, "foos established", &apiextensionsv1.CustomResourceDefinitionList{}, func() bool { return isEstablished(s, "foos.example.com") })

	const head = "apiVersion: example.com/v1\nkind: Foo\nmetadata: {name: a}\nspec: "
	k.ok(head+"{bars: [{name: x, age: 1}], free: {any: thing}, inner: {apiVersion: v1, kind: X, y: 1}}", "apply -f -", "foo.example.com/a created")
	k.ok(head+"{bars: [{name: x, age: 2}]}", "apply -f -", "foo.example.com/a configured")

	// The text is that of a list without a Go type.
	text := string(s.ok(200, call{Method: "GET", Path: "/apis/example.com/v1/foos"}).Body)
	if !strings.HasPrefix(text, `{"apiVersion":"example.com/v1","items":[{`) || !strings.Contains(text, `}],"kind":"FooList","metadata":{"continue":"","resourceVersion":"`) {
		t.Errorf("the list: %s", text)
	}
	k.refused(head+"{bars: [{name: x, odd: 1}]}", "apply -f -", `unknown field "spec.bars[0].odd"`)
	k.refused(head+"{bars: [{age: 1}]}", "apply -f -", "spec.bars[0].name: Required value")
	k.refused(head+"{}", "apply -f -", "spec.bars: Required value")
	k.ok("apiVersion: example.com/v2\nkind: Foo\nmetadata: {name: b}\nspec: {bars: [{name: x}], what: ever}", "create --validate=strict -f -", "foo.example.com/b created")

	k.ok("", "explain foos --api-version=example.com/v1", "KIND:       Foo", "Foo is for tests.", "What a Foo should be.")
	k.ok("", "explain fo.spec.bars --api-version=example.com/v1", "FIELD: bars <[]Object>", "The bars of a Foo.", "<string> -required-")
	k.ok("", "explain foos.spec.free --api-version=example.com/v1", "Anything goes.")
	k.ok("", "explain foos.metadata.labels --api-version=example.com/v1", "map[string]string")
	k.ok("", "explain foos.spec.inner --recursive --api-version=example.com/v1", "metadata")
	k.refused("", "explain foos.spec.nothing --api-version=example.com/v1", `field "nothing" does not exist`)
	k.ok("", "explain foos --api-version=example.com/v2", "VERSION:    v2")
	k.ok("", "api-resources --api-group=example.com", "foos   fo")

	k.ok(strings.Replace(foos, "name: v2\n    served: true", "name: v2\n    served: false", 1), "apply -f -")
	k.untilRefused("get --raw /openapi/v3/apis/example.com/v2", "the server could not find the requested resource")
	k.ok("", "delete crd foos.example.com")
	k.untilRefused("explain foos", "foos")
}
