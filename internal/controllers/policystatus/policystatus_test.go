package policystatus_test

import (
	"log/slog"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/client-go/discovery"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/policystatus"
	"skiff/internal/identity"
)

func start(t *testing.T) *testcluster.Cluster {
	t.Helper()
	c := testcluster.Start(t)
	r, err := policystatus.New(controller.Deps{
		Set: c.Account("validatingadmissionpolicy-status-controller"), Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
	}, func() (resolver.SchemaResolver, error) {
		d, err := discovery.NewDiscoveryClientForConfig(c.Config)
		return &resolver.ClientDiscoveryResolver{Discovery: d}, err
	}, c.Set(identity.Loopback()))
	if err != nil {
		t.Fatal(err)
	}
	testcluster.Run(t, r.Start)
	return c
}

// TestKindsThatAreDefinedLater: policies are often applied together with the
// definitions of what they are about, or before them.
func TestKindsThatAreDefinedLater(t *testing.T) {
	c := start(t)
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "boats"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
				RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Operations: []admissionregistrationv1.OperationType{"CREATE"},
					Rule:       admissionregistrationv1.Rule{APIGroups: []string{"example.com"}, APIVersions: []string{"v1"}, Resources: []string{"boats"}},
				},
			}}},
			Validations: []admissionregistrationv1.Validation{{Expression: "object.spec.sails > 1"}},
		},
	}
	if err := c.Client.Create(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	warnings := func() []admissionregistrationv1.ExpressionWarning {
		if err := c.Client.Get(t.Context(), client.ObjectKeyFromObject(policy), policy); err != nil {
			t.Fatal(err)
		}
		if policy.Status.TypeChecking == nil {
			return nil
		}
		return policy.Status.TypeChecking.ExpressionWarnings
	}
	c.Wait(t, "the status", &admissionregistrationv1.ValidatingAdmissionPolicyList{}, func() bool {
		return len(warnings()) == 0 && policy.Status.ObservedGeneration == policy.Generation
	})
	field := func(name string) map[string]apiextensionsv1.JSONSchemaProps {
		return map[string]apiextensionsv1.JSONSchemaProps{"spec": {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{name: {Type: "integer"}}}}
	}
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "boats.example.com"}}
	crd.Spec.Group, crd.Spec.Scope = "example.com", apiextensionsv1.NamespaceScoped
	crd.Spec.Names = apiextensionsv1.CustomResourceDefinitionNames{Plural: "boats", Kind: "Boat"}
	crd.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
		OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", Properties: field("engines")},
	}}}
	if err := c.Client.Create(t.Context(), crd); err != nil {
		t.Fatal(err)
	}
	c.Wait(t, "a warning", &admissionregistrationv1.ValidatingAdmissionPolicyList{}, func() bool {
		got := warnings()
		return len(got) == 1 && strings.Contains(got[0].Warning, "undefined field 'sails'")
	})
}

func TestTypeChecking(t *testing.T) {
	c := start(t)
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "replicas"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			ParamKind: &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"},
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
				RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Operations: []admissionregistrationv1.OperationType{"CREATE"},
					Rule:       admissionregistrationv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments", "daemonsets"}},
				},
			}}},
			Variables: []admissionregistrationv1.Variable{{Name: "n", Expression: "1"}},
			Validations: []admissionregistrationv1.Validation{
				{Expression: "object.spec.replicas > 1"},
				{Expression: "object.metadata.name.startsWith('a') && variables.n == 1 && params.data['x'] == 'y' && authorizer.group('').resource('pods').check('get').allowed()"},
				{Expression: "object.spec.template.spec.containers.all(c, c.nam != '')", MessageExpression: "'more than ' + request.name"},
			},
		},
	}
	if err := c.Client.Create(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	c.Wait(t, "the status", &admissionregistrationv1.ValidatingAdmissionPolicyList{}, func() bool {
		if err := c.Client.Get(t.Context(), client.ObjectKeyFromObject(policy), policy); err != nil {
			t.Fatal(err)
		}
		return policy.Status.ObservedGeneration == policy.Generation && policy.Status.TypeChecking != nil
	})
	got := policy.Status.TypeChecking.ExpressionWarnings
	if len(got) != 2 || got[0].FieldRef != "spec.validations[0].expression" || got[1].FieldRef != "spec.validations[2].expression" {
		t.Fatalf("warnings: %+v", got)
	}
	if w := got[0].Warning; !strings.HasPrefix(w, "apps/v1, Kind=DaemonSet: ERROR: <input>:1:12: undefined field 'replicas'") || strings.Contains(w, "Deployment") {
		t.Errorf("the first: %s", w)
	}
	if w := got[1].Warning; !strings.Contains(w, "Kind=Deployment: ERROR") || !strings.Contains(w, "Kind=DaemonSet: ERROR") || !strings.Contains(w, "undefined field 'nam'") {
		t.Errorf("the second: %s", w)
	}
}
