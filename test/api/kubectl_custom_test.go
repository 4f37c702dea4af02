package api

import "strings"

// customCommands is what the conformance suite does with kubectl and custom
// resources: kubectl validates and explains them by the server's OpenAPI.
func customCommands(s *server, k *program) {
	define := func(name, schema string) {
		k.Helper()
		k.ok(strings.NewReplacer("NAME", name, "KIND", strings.ToUpper(name[:1])+name[1:], "SCHEMA", schema).Replace(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: NAMEs.kubectl.example.com}
spec:
  group: kubectl.example.com
  scope: Namespaced
  names: {plural: NAMEs, singular: NAME, kind: KIND}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: SCHEMA}}]
`), "create -f -", "NAMEs.kubectl.example.com created"[4:])
		// kubectl gives up on an object that has no conditions yet.
		s.until("kubectl sees it established", func() bool {
			_, err := k.run("", "wait", "crd/"+name+"s.kubectl.example.com", "--for=condition=Established")
			return err == nil
		})
		s.until("kubectl can explain it", func() bool {
			_, err := k.run("", "explain", name+"s")
			return err == nil
		})
	}
	object := func(kind, fields string) string {
		return `{"apiVersion":"kubectl.example.com/v1","kind":"` + kind + `","metadata":{"name":"test"},` + fields + `}`
	}
	// accepted demands that kubectl creates and applies the object.
	accepted := func(resource, manifest string) {
		k.Helper()
		for _, command := range []string{"create -f -", "apply -f -"} {
			k.ok(manifest, command, resource+".kubectl.example.com/test created")
			k.ok("", "delete "+resource+" test", `"test" deleted`)
		}
	}

	define("foo", `{description: Foo CRD for Testing, type: object, properties: {spec: {description: Specification of Foo, type: object, properties: {
    bars: {description: List of Bars and their specs., type: array, items: {type: object, required: [name], properties: {
      name: {description: Name of Bar., type: string}, age: {description: Age of Bar., type: string},
      feeling: {description: How Bar feels., type: string, enum: [Great, Down]}, bazs: {description: List of Bazs., type: array, items: {type: string}}}}}}}}}`)
	accepted("foo", object("Foo", `"spec":{"bars":[{"name":"test-bar"}]}`))
	for _, command := range []string{"create -f -", "apply -f -"} {
		k.refused(object("Foo", `"spec":{"bars":[{"name":"test-bar","feeling":"Unknown"}]}`), command, `spec.bars[0].feeling: Unsupported value: "Unknown": supported values: "Great", "Down"`)
		k.refused(object("Foo", `"spec":{"foo":true}`), command, `unknown field "spec.foo"`)
		k.refused(object("Foo", `"spec":{"bars":[{"age":"10"}]}`), command, "spec.bars[0].name: Required value")
	}
	k.ok("", "explain foos", "KIND: Foo", "DESCRIPTION: Foo CRD for Testing", "FIELDS:", "apiVersion <string> APIVersion defines", "spec <Object> Specification of Foo")
	k.ok("", "explain foos.metadata", "DESCRIPTION: Standard object's metadata", "creationTimestamp <string> CreationTimestamp is a timestamp")
	k.ok("", "explain foos.spec", "DESCRIPTION: Specification of Foo", "FIELDS:", "bars <[]Object> List of Bars and their specs.")
	k.ok("", "explain foos.spec.bars", "FIELD: bars <[]Object>", "DESCRIPTION: List of Bars and their specs.", "bazs <[]string> List of Bazs.", "name <string> -required- Name of Bar.")
	k.refused("", "explain foos.spec.bars2", `field "bars2" does not exist`)

	define("empty", `{type: object, x-kubernetes-preserve-unknown-fields: true}`)
	accepted("empty", object("Empty", `"a":{"b":[{"c":"d"}]}`))
	k.ok("", "explain emptys", "KIND: Empty", "DESCRIPTION: <empty>")

	define("nested", `{description: unknown properties in nested field, type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}}}`)
	accepted("nested", object("Nested", `"spec":{"a":null,"b":[{"c":"d"}]}`))
	k.ok("", "explain nesteds", "DESCRIPTION: unknown properties in nested field")
}
