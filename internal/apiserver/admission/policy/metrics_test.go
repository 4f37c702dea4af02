package policy_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
)

// TestMetrics demands upstream's metrics about policies and about admission as a
// whole.
func TestMetrics(t *testing.T) {
	e := start(t)
	e.validating("  matchConditions: [{name: a, expression: 'object.metadata.name == \"d\"'}]\n  validations: [{expression: 'false'}, {expression: 'true'}]", "  validationActions: [Deny, Audit]\n")
	if err := e.Client.Create(t.Context(), deployment(1)); !apierrors.IsInvalid(err) {
		t.Fatalf("not denied: %v", err)
	}
	e.reset()
	e.mutating("  reinvocationPolicy: Never\n  mutations: [{patchType: JSONPatch, jsonPatch: {expression: '[JSONPatch{op: \"replace\", path: \"/spec/replicas\", value: 2}]'}}]", "")
	if err := e.Client.Create(t.Context(), deployment(1)); err != nil {
		t.Fatal(err)
	}
	hc, err := rest.HTTPClientFor(e.Config)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.URL()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := hc.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`apiserver_validating_admission_policy_check_total{enforcement_action="deny",error_type="invalid_error",policy="p",policy_binding="b"} 1`,
		`apiserver_validating_admission_policy_check_total{enforcement_action="audit",error_type="invalid_error",policy="p",policy_binding="b"} 1`,
		`apiserver_validating_admission_policy_check_duration_seconds_count{enforcement_action="deny",error_type="invalid_error",policy="p",policy_binding="b"} 1`,
		`apiserver_mutating_admission_policy_check_total{error_type="no_error",policy="p",policy_binding="b"} 1`,
		`apiserver_admission_match_condition_evaluation_seconds_count{kind="policy",name="p",operation="CREATE",type="validate"} 1`,
		`apiserver_admission_controller_admission_duration_seconds_count{name="ValidatingAdmissionPolicy",operation="CREATE",rejected="true",type="validate"} 1`,
		`apiserver_admission_controller_admission_duration_seconds_count{name="LimitRanger",operation="CREATE",rejected="false",type="admit"} `,
		`apiserver_admission_step_admission_duration_seconds_summary_count{operation="CREATE",rejected="true",type="validate"} 1`,
	} {
		if !strings.Contains(string(text), "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
}

// A JSON patch must not set what the type does not have; without a check the
// policy would seem to work.
func TestUnknownField(t *testing.T) {
	e := start(t)
	e.mutating("  reinvocationPolicy: Never\n  mutations: [{patchType: JSONPatch, jsonPatch: {expression: '[JSONPatch{op: \"add\", path: \"/spec/replica\", value: 2}]'}}]", "")
	err := e.Client.Create(t.Context(), deployment(1))
	if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), `unknown field "spec.replica"`) {
		t.Errorf("a patch of an unknown field: %v", err)
	}
}
