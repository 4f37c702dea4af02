package admissionregistration

import (
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

func TestWebhooks(t *testing.T) {
	type config = admissionregistrationv1.MutatingWebhookConfiguration
	change := checkstest.Change[*config]
	r := checkstest.Find(t, Resources(), "mutatingwebhookconfigurations")
	valid := checkstest.Parse[*config](t, r, `
metadata: {name: x}
webhooks:
- name: a.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  clientConfig: {service: {namespace: default, name: hook}}
  rules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}]
`)
	w := valid.Webhooks[0]
	if *w.FailurePolicy != "Fail" || *w.MatchPolicy != "Equivalent" || *w.TimeoutSeconds != 10 || *w.ReinvocationPolicy != "Never" ||
		*w.ClientConfig.Service.Port != 443 || *w.Rules[0].Scope != "*" || w.NamespaceSelector == nil || w.ObjectSelector == nil {
		t.Errorf("wrong defaults: %+v", w)
	}
	checkstest.Create(t, r, valid,
		change("name", func(c *config) { c.Webhooks[0].Name = "a" }, "webhooks[0].name: Invalid value: should be a domain with at least three segments separated by dots"),
		change("twice", func(c *config) { c.Webhooks = append(c.Webhooks, c.Webhooks[0]) }, "webhooks[1].name: Duplicate value: "),
		change("version", func(c *config) { c.Webhooks[0].AdmissionReviewVersions = []string{"v9"} },
			"webhooks[0].admissionReviewVersions: Invalid value: must include at least one of v1, v1beta1"),
		change("side effects", func(c *config) { c.Webhooks[0].SideEffects = ptr.To(admissionregistrationv1.SideEffectClassSome) },
			`webhooks[0].sideEffects: Unsupported value: supported values: "None", "NoneOnDryRun"`),
		change("timeout", func(c *config) { c.Webhooks[0].TimeoutSeconds = ptr.To[int32](31) },
			"webhooks[0].timeoutSeconds: Invalid value: the timeout value must be between 1 and 30 seconds"),
		change("target", func(c *config) { c.Webhooks[0].ClientConfig.URL = ptr.To("https://x") },
			"webhooks[0].clientConfig: Required value: exactly one of url or service is required"),
		change("plain", func(c *config) {
			c.Webhooks[0].ClientConfig = admissionregistrationv1.WebhookClientConfig{URL: ptr.To("http://x")}
		}, "webhooks[0].clientConfig.url: Invalid value: 'https' is the only allowed URL scheme; desired format: https://host[/path]"),
		change("condition", func(c *config) {
			c.Webhooks[0].MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "ok", Expression: "request.dryRun"}, {Name: "ok", Expression: "... [] bad expression"}}
		}, "webhooks[0].matchConditions[1].name: Duplicate value: ",
			"webhooks[0].matchConditions[1].expression: Invalid value: compilation failed: ERROR: <input>:1:2: Syntax error: no viable alternative at input '..'\n | ... [] bad expression\n | .^"),
		change("resources", func(c *config) { c.Webhooks[0].Rules[0].Resources = []string{"*", "pods", "pods/*", "pods/status"} },
			"webhooks[0].rules[0].resources: Invalid value: if '*' is present, must not specify other resources without subresources",
			"webhooks[0].rules[0].resources[3]: Invalid value: if 'pods/*' is present, must not specify pods/status"),
		change("operations", func(c *config) {
			c.Webhooks[0].Rules[0].Operations = []admissionregistrationv1.OperationType{"*", "CREATE"}
		},
			"webhooks[0].rules[0].operations: Invalid value: if '*' is present, must not specify other operations"),
	)
}

func TestPolicies(t *testing.T) {
	type policy = admissionregistrationv1.ValidatingAdmissionPolicy
	change := checkstest.Change[*policy]
	r := checkstest.Find(t, Resources(), "validatingadmissionpolicies")
	valid := checkstest.Parse[*policy](t, r, `
metadata: {name: x}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [apps], apiVersions: [v1], resources: [deployments]}]}
  validations: [{expression: "object.spec.replicas <= 5"}]
`)
	if *valid.Spec.FailurePolicy != "Fail" || *valid.Spec.MatchConstraints.MatchPolicy != "Equivalent" {
		t.Errorf("wrong defaults: %+v", valid.Spec)
	}
	checkstest.Create(t, r, valid,
		change("nothing", func(p *policy) { p.Spec.Validations = nil },
			"spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
			"spec.validations: Required value: validations or auditAnnotations must contain at least one item"),
		change("no match", func(p *policy) { p.Spec.MatchConstraints = nil }, "spec.matchConstraints: Required value: "),
		change("expression", func(p *policy) { p.Spec.Validations[0].Expression = " " }, "spec.validations[0].expression: Required value: expression is not specified"),
		change("result", func(p *policy) { p.Spec.Validations[0].Expression = "object.spec.replicas" },
			"spec.validations[0].expression: Invalid value: must evaluate to bool but got dyn"),
		change("syntax", func(p *policy) { p.Spec.Validations[0].Expression = "object." },
			"spec.validations[0].expression: Invalid value: compilation failed: ERROR: <input>:1:8: Syntax error: no viable alternative at input '.'\n | object.\n | .......^"),
		change("message", func(p *policy) { p.Spec.Validations[0].MessageExpression = "1" },
			"spec.validations[0].messageExpression: Invalid value: must evaluate to string but got int"),
		change("no params", func(p *policy) {
			p.Spec.ParamKind, p.Spec.Validations[0].Expression = nil, "params.x == 1"
		}, "spec.validations[0].expression: Invalid value: compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')\n | params.x == 1\n | ^"),
		change("variables", func(p *policy) {
			p.Spec.Variables = []admissionregistrationv1.Variable{{Name: "n", Expression: "object.spec.replicas"}, {Name: "m", Expression: "variables.n + 1"}}
			p.Spec.Validations[0].Expression = "variables.m < 5"
		}),
		change("variable names", func(p *policy) {
			p.Spec.Variables = []admissionregistrationv1.Variable{{Name: "for", Expression: "variables.n"}, {Name: "n", Expression: "1"}}
		}, "spec.variables[0].name: Invalid value: name is not a valid CEL identifier",
			"spec.variables[0].expression: Invalid value: compilation failed: ERROR: <input>:1:10: undefined field 'n'\n | variables.n\n | .........^"),
		change("audit", func(p *policy) {
			p.Spec.AuditAnnotations = []admissionregistrationv1.AuditAnnotation{{Key: "a", ValueExpression: "1"}, {Key: "a", ValueExpression: "null"}}
		}, "spec.auditAnnotations[0].valueExpression: Invalid value: must evaluate to one of [string null_type] but got int",
			"spec.auditAnnotations[1].key: Duplicate value: "),
		change("param kind", func(p *policy) { p.Spec.ParamKind.Kind = "" }, "spec.paramKind.kind: Required value: "),
	)
	if got := r.Cells(valid); got[1] != int64(1) || got[2] != "v1/ConfigMap" {
		t.Errorf("shown as %v", got)
	}
	type binding = admissionregistrationv1.ValidatingAdmissionPolicyBinding
	bind := checkstest.Change[*binding]
	r = checkstest.Find(t, Resources(), "validatingadmissionpolicybindings")
	bound := checkstest.Parse[*binding](t, r, "metadata: {name: x}\nspec: {policyName: x, validationActions: [Deny], paramRef: {name: p, parameterNotFoundAction: Deny}}")
	checkstest.Create(t, r, bound,
		bind("no policy", func(b *binding) { b.Spec.PolicyName = "" }, "spec.policyName: Required value: "),
		bind("no actions", func(b *binding) { b.Spec.ValidationActions = nil }, "spec.validationActions: Required value: at least one validation action is required"),
		bind("params", func(b *binding) { b.Spec.ParamRef.Name = "" }, "spec.paramRef: Required value: one of name or selector must be specified"),
	)
	mutate := checkstest.Change[*admissionregistrationv1.MutatingAdmissionPolicy]
	r = checkstest.Find(t, Resources(), "mutatingadmissionpolicies")
	mutating := checkstest.Parse[*admissionregistrationv1.MutatingAdmissionPolicy](t, r, `
metadata: {name: x}
spec:
  matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}]}
  mutations: [{patchType: JSONPatch, jsonPatch: {expression: '[JSONPatch{op: "add", path: "/spec/x", value: Object.spec{y: 1}}]'}}]
  reinvocationPolicy: Never
`)
	checkstest.Create(t, r, mutating,
		mutate("none", func(p *admissionregistrationv1.MutatingAdmissionPolicy) { p.Spec.Mutations = nil },
			"spec.mutations: Required value: mutations must contain at least one item"),
		mutate("type", func(p *admissionregistrationv1.MutatingAdmissionPolicy) { p.Spec.Mutations[0].JSONPatch = nil },
			"spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch"),
		mutate("both", func(p *admissionregistrationv1.MutatingAdmissionPolicy) {
			p.Spec.Mutations[0].ApplyConfiguration = &admissionregistrationv1.ApplyConfiguration{Expression: "Object{}"}
		}, "spec.mutations[0].applyConfiguration: Invalid value: must not be specified when patchType is JSONPatch"),
		mutate("wrong result", func(p *admissionregistrationv1.MutatingAdmissionPolicy) {
			p.Spec.Mutations[0].JSONPatch.Expression = "Object{}"
		}, "spec.mutations[0].jsonPatch.expression: Invalid value: must evaluate to list(JSONPatch) but got Object"),
		mutate("delete", func(p *admissionregistrationv1.MutatingAdmissionPolicy) {
			p.Spec.MatchConstraints.ResourceRules[0].Operations[0] = "DELETE"
		}, `spec.matchConstraints.resourceRules.operations: Unsupported value: supported values: "*", "CONNECT", "CREATE", "UPDATE"`),
		mutate("again", func(p *admissionregistrationv1.MutatingAdmissionPolicy) { p.Spec.ReinvocationPolicy = "" }, "spec.reinvocationPolicy: Required value: "),
	)
}
