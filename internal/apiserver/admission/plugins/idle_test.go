package plugins_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/plugins"
)

// TestIdleWebhooksAndPoliciesAreFree demands that webhooks and policies cost no
// memory per write where there are none.
func TestIdleWebhooksAndPoliciesAreFree(t *testing.T) {
	e := start(t)
	var others []string
	for _, name := range e.deps.Names(t.Context()) {
		if !strings.HasPrefix(name, "MutatingAdmission") && !strings.HasPrefix(name, "ValidatingAdmission") {
			others = append(others, name)
		}
	}
	chain, err := plugins.New(t.Context(), e.deps, plugins.Config{Disable: others})
	if err != nil {
		t.Fatal(err)
	}
	nodes := e.deps.Server.Lookup(corev1.Resource("nodes"))
	a := &admission.Attributes{Operation: admission.Update, Resource: nodes.Resource, Version: nodes.Versions[0].Version, Name: "n", Object: &corev1.Node{}, Old: &corev1.Node{}, User: bob}
	allocated := testing.AllocsPerRun(100, func() {
		if err := chain.Mutate(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if err := chain.Validate(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	})
	if allocated > 0 {
		t.Errorf("%v allocations for each write", allocated)
	}
}
