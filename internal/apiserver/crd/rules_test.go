package crd_test

import (
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const ruled = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ruleds.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: ruleds, kind: Ruled}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
%s
`

// TestRuleLibraries has for each library of expressions a rule, a value that
// meets it and one that does not.
func TestRuleLibraries(t *testing.T) {
	const text, list = "type: string, maxLength: 50", "type: array, maxItems: 5, items: {type: string, maxLength: 10}"
	rules := []struct{ name, schema, rule, good, bad string }{
		{"quantity", text, `quantity(self).isGreaterThan(quantity("1"))`, "2Gi", "1m"},
		{"ip", text, `isIP(self) && ip(self).family() == 4`, "10.0.0.1", `"::1"`},
		{"cidr", text, `isCIDR(self) && cidr(self).containsIP("10.0.0.1")`, "10.0.0.0/8", "192.168.0.0/16"},
		{"semver", text, `isSemver(self) && semver(self).isGreaterThan(semver("1.2.3"))`, "1.10.0", "1.0.0"},
		{"format", text, `!format.dns1123Label().validate(self).hasValue()`, "a-b", "A_b"},
		{"url", text, `isURL(self) && url(self).getScheme() == "https"`, `"https://a"`, `"http://a"`},
		{"regex", text, `self.find("[0-9]+") == "42"`, "a42", "a4"},
		{"strings", text, `self.lowerAscii() == self && self.split("-").size() == 2`, "a-b", "A-b"},
		{"sets", list, `sets.contains(["a", "b"], self)`, "[a]", "[c]"},
		{"lists", list, `self.isSorted()`, "[a, b]", "[b, a]"},
		{"pairs", "type: object, maxProperties: 5, additionalProperties: {type: string, maxLength: 10}", `self.all(k, v, k != v)`, "{a: b}", "{a: a}"},
		{"optional", "type: object, properties: {x: {type: string, maxLength: 5}}", `self.?x.orValue("none") == "none"`, "{}", "{x: some}"},
	}
	var properties strings.Builder
	for _, r := range rules {
		fmt.Fprintf(&properties, "              %s: {%s, x-kubernetes-validations: [{rule: '%s'}]}\n", r.name, r.schema, r.rule)
	}
	fmt.Fprintln(&properties, `              once: {type: string, maxLength: 5, x-kubernetes-validations: [{rule: "oldSelf.hasValue() || self == 'new'", optionalOldSelf: true, messageExpression: "'begins with ' + self"}]}`)
	f := start(t)
	f.define(fmt.Sprintf(ruled, properties.String()))
	c := f.dynamic.Resource(boatsGVR("v1").GroupVersion().WithResource("ruleds")).Namespace("default")
	create := func(name, field, value string) error {
		_, err := c.Create(t.Context(), parse(t, fmt.Sprintf(`{apiVersion: example.com/v1, kind: Ruled, metadata: {name: %s}, spec: {%s: %s}}`, name, field, value)), metav1.CreateOptions{})
		return err
	}
	for _, r := range rules {
		if err := create(r.name, r.name, r.good); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
		if err := create(r.name+"-bad", r.name, r.bad); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec."+r.name+": Invalid value: ") || !strings.Contains(err.Error(), "failed rule: "+r.rule) {
			t.Errorf("%s of %s: %v", r.name, r.bad, err)
		}
	}
	if err := create("later", "once", "old"); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "begins with old") {
		t.Errorf("a rule about the beginning: %v", err)
	}
	if err := create("once", "once", "new"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Patch(t.Context(), "once", types.MergePatchType, []byte(`{"spec":{"once":"old"}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("later the rule holds for everything: %v", err)
	}
}
