package admissionregistration

import (
	"fmt"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

func TestWebhooks(t *testing.T) {
	type config = admissionregistrationv1.MutatingWebhookConfiguration
	change := checkstest.Change[*config]
	r := checkstest.Find(t, Resources(Grants{}), "mutatingwebhookconfigurations")
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

func TestWebhookDetails(t *testing.T) {
	type config = admissionregistrationv1.ValidatingWebhookConfiguration
	type hook = admissionregistrationv1.ValidatingWebhook
	r := checkstest.Find(t, Resources(Grants{}), "validatingwebhookconfigurations")
	valid := checkstest.Parse[*config](t, r, `
metadata: {name: x}
webhooks:
- name: a.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  clientConfig: {service: {namespace: default, name: hook}}
  rules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}]
`)
	change := func(name string, f func(w *hook), want ...string) checkstest.Case[*config] {
		return checkstest.Change(name, func(c *config) { f(&c.Webhooks[0]) }, want...)
	}
	rule := func(name string, f func(r *admissionregistrationv1.RuleWithOperations), want ...string) checkstest.Case[*config] {
		return change(name, func(w *hook) { f(&w.Rules[0]) }, want...)
	}
	const at = "webhooks[0]."
	checkstest.Create(t, r, valid,
		change("no versions", func(w *hook) { w.AdmissionReviewVersions = nil }, at+"admissionReviewVersions: Required value: must specify one of v1, v1beta1"),
		change("version twice", func(w *hook) { w.AdmissionReviewVersions = []string{"v1", "v1"} }, at+"admissionReviewVersions[1]: Invalid value: duplicate version"),
		change("version's name", func(w *hook) { w.AdmissionReviewVersions = []string{"1"} },
			at+"admissionReviewVersions[0]: Invalid value: a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
			at+"admissionReviewVersions: Invalid value: must include at least one of v1, v1beta1"),
		change("failure policy", func(w *hook) { w.FailurePolicy = ptr.To(admissionregistrationv1.FailurePolicyType("")) },
			at+`failurePolicy: Unsupported value: supported values: "Fail", "Ignore"`),
		change("match policy", func(w *hook) { w.MatchPolicy = ptr.To(admissionregistrationv1.MatchPolicyType("Near")) },
			at+`matchPolicy: Unsupported value: supported values: "Equivalent", "Exact"`),
		change("no side effects", func(w *hook) { w.SideEffects = nil }, at+"sideEffects: Required value: must specify one of None, NoneOnDryRun"),
		change("no service name", func(w *hook) { w.ClientConfig.Service.Name = "" }, at+"clientConfig.service.namespace: Required value: "),
		change("port", func(w *hook) { w.ClientConfig.Service.Port = ptr.To[int32](0) },
			at+"clientConfig.service.port: Invalid value: port is not valid: must be between 1 and 65535, inclusive"),
		change("path", func(w *hook) { w.ClientConfig.Service.Path = ptr.To("/a//b") }, at+"clientConfig.service.path: Invalid value: segment[1] may not be empty"),
		change("URL", func(w *hook) {
			w.ClientConfig = admissionregistrationv1.WebhookClientConfig{URL: ptr.To("https://u@host/p?q#f")}
		}, at+"clientConfig.url: Invalid value: user information is not permitted in the URL", at+"clientConfig.url: Invalid value: fragments are not permitted in the URL",
			at+"clientConfig.url: Invalid value: query parameters are not permitted in the URL"),
		rule("empty", func(r *admissionregistrationv1.RuleWithOperations) { *r = admissionregistrationv1.RuleWithOperations{} },
			at+"rules[0].operations: Required value: ", at+"rules[0].apiGroups: Required value: ", at+"rules[0].apiVersions: Required value: ", at+"rules[0].resources: Required value: "),
		rule("operation", func(r *admissionregistrationv1.RuleWithOperations) { r.Operations[0] = "" },
			at+`rules[0].operations[0]: Unsupported value: supported values: "*", "CONNECT", "CREATE", "DELETE", "UPDATE"`),
		rule("stars", func(r *admissionregistrationv1.RuleWithOperations) {
			r.APIGroups, r.APIVersions, r.Resources = []string{"*", ""}, []string{"*", ""}, []string{"*/*", ""}
		}, at+"rules[0].apiGroups: Invalid value: if '*' is present, must not specify other API groups", at+"rules[0].apiVersions: Invalid value: if '*' is present, must not specify other API versions",
			at+"rules[0].apiVersions[1]: Required value: ", at+"rules[0].resources[1]: Required value: ", at+"rules[0].resources: Invalid value: if '*/*' is present, must not specify other resources"),
		rule("subresource everywhere", func(r *admissionregistrationv1.RuleWithOperations) { r.Resources = []string{"*/scale", "a/scale"} },
			at+"rules[0].resources[1]: Invalid value: if '*/scale' is present, must not specify a/scale"),
		rule("scope", func(r *admissionregistrationv1.RuleWithOperations) {
			r.Scope = ptr.To(admissionregistrationv1.ScopeType(""))
		},
			at+`rules[0].scope: Unsupported value: supported values: "*", "Cluster", "Namespaced"`),
		change("selector", func(w *hook) {
			w.ObjectSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "a", Operator: "In", Values: []string{"-"}}}
		}, at+"objectSelector.matchExpressions[0].values[0]: Invalid value: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"),
		change("too many conditions", func(w *hook) {
			for i := range 65 {
				w.MatchConditions = append(w.MatchConditions, admissionregistrationv1.MatchCondition{Name: fmt.Sprintf("c%d", i), Expression: "true"})
			}
		}, at+"matchConditions: Too many: must have at most 64 items"),
		change("empty condition", func(w *hook) { w.MatchConditions = make([]admissionregistrationv1.MatchCondition, 1) },
			at+"matchConditions[0].expression: Required value: ", at+"matchConditions[0].name: Required value: "),
		change("parameters", func(w *hook) {
			w.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "a", Expression: "params.x"}}
		}, at+"matchConditions[0].expression: Invalid value: compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')\n | params.x\n | ^"),
	)

	// What older rules accepted can still be updated.
	old := valid.DeepCopy()
	w := &old.Webhooks[0]
	w.SideEffects, w.AdmissionReviewVersions = ptr.To(admissionregistrationv1.SideEffectClassSome), []string{"v0"}
	w.ObjectSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "a", Operator: "In", Values: []string{"-"}}}
	w.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "a", Expression: "once.this.compiled"}}
	old.Webhooks = append(old.Webhooks, *w.DeepCopy())
	checkstest.Update(t, r, old,
		change("as before", func(w *hook) { w.TimeoutSeconds = ptr.To[int32](3) }),
		change("effects", func(w *hook) { w.SideEffects = ptr.To(admissionregistrationv1.SideEffectClass("Few")) },
			at+`sideEffects: Unsupported value: supported values: "None", "NoneOnDryRun", "Some", "Unknown"`),
		change("conditions", func(w *hook) { w.MatchConditions[0].Name = "b" },
			at+"matchConditions[0].expression: Invalid value: compilation failed: ERROR: <input>:1:1: undeclared reference to 'once' (in container '')\n | once.this.compiled\n | ^",
			"webhooks[1].matchConditions[0].expression: Invalid value: compilation failed: ERROR: <input>:1:1: undeclared reference to 'once' (in container '')\n | once.this.compiled\n | ^"),
	)
	checkstest.Update(t, r, valid,
		change("effects", func(w *hook) { w.SideEffects = ptr.To(admissionregistrationv1.SideEffectClassSome) },
			at+`sideEffects: Unsupported value: supported values: "None", "NoneOnDryRun"`),
	)
	if got := r.Cells(old)[1]; got != int64(2) {
		t.Errorf("%v webhooks shown", got)
	}
}

func TestPolicies(t *testing.T) {
	type policy = admissionregistrationv1.ValidatingAdmissionPolicy
	change := checkstest.Change[*policy]
	r := checkstest.Find(t, Resources(Grants{}), "validatingadmissionpolicies")
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
		}, "spec.variables[0].name: Invalid value: must be a valid CEL identifier",
			"spec.variables[0].expression: Invalid value: compilation failed: ERROR: <input>:1:10: undefined field 'n'\n | variables.n\n | .........^"),
		change("audit", func(p *policy) {
			p.Spec.AuditAnnotations = []admissionregistrationv1.AuditAnnotation{{Key: "a", ValueExpression: "1"}, {Key: "a", ValueExpression: "null"}}
		}, "spec.auditAnnotations[0].valueExpression: Invalid value: must evaluate to one of [string null_type] but got int",
			"spec.auditAnnotations[1].key: Duplicate value: "),
		change("param kind", func(p *policy) { p.Spec.ParamKind.Kind = "" }, "spec.paramKind.kind: Required value: "),
	)
	checkstest.Create(t, r, valid,
		change("failure", func(p *policy) { p.Spec.FailurePolicy = nil }, "spec.failurePolicy: Required value: "),
		change("no rules", func(p *policy) { p.Spec.MatchConstraints.ResourceRules = nil }, "spec.matchConstraints.resourceRules: Required value: "),
		change("names", func(p *policy) {
			p.Spec.MatchConstraints.ResourceRules[0].ResourceNames = []string{"a", "a", "a/b"}
		}, "spec.matchConstraints.resourceRules[0].resourceNames[1]: Duplicate value: ",
			"spec.matchConstraints.resourceRules[0].resourceNames[2]: Invalid value: may not contain '/'"),
		change("kind", func(p *policy) {
			p.Spec.ParamKind = &admissionregistrationv1.ParamKind{APIVersion: "a/b/c", Kind: "B ad"}
		},
			"spec.paramKind.apiVersion: Invalid value: unexpected GroupVersion string: a/b/c",
			"spec.paramKind.kind: Invalid value: may have mixed case, but should otherwise match: a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"),
		change("no version", func(p *policy) { p.Spec.ParamKind.APIVersion = "a/" }, "spec.paramKind.apiVersion: Invalid value: version must be specified"),
		change("messages", func(p *policy) { p.Spec.Validations[0].Message, p.Spec.Validations[0].MessageExpression = "a\nb", " " },
			"spec.validations[0].message: Invalid value: must not contain line breaks", "spec.validations[0].messageExpression: Invalid value: must be non-empty if specified"),
		change("empty message", func(p *policy) { p.Spec.Validations[0].Message = " " }, "spec.validations[0].message: Invalid value: must be non-empty if specified"),
		change("reason", func(p *policy) { p.Spec.Validations[0].Reason = ptr.To(metav1.StatusReasonUnauthorized) },
			`spec.validations[0].reason: Unsupported value: supported values: "Forbidden", "Invalid", "RequestEntityTooLarge"`),
		change("audit keys", func(p *policy) {
			p.Spec.AuditAnnotations = []admissionregistrationv1.AuditAnnotation{{ValueExpression: "'a'"}, {Key: "b", ValueExpression: strings.Repeat(" ", 3) + "'" + strings.Repeat("x", 5*1024) + "'"}}
		}, "spec.auditAnnotations[0].key: Invalid value: name part must be non-empty",
			"spec.auditAnnotations[0].key: Invalid value: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
			"spec.auditAnnotations[1].valueExpression: Required value: must not exceed 5120 bytes in length"),
		change("no variable", func(p *policy) { p.Spec.Variables = make([]admissionregistrationv1.Variable, 1) },
			"spec.variables[0].name: Required value: name is not specified", "spec.variables[0].expression: Required value: expression is not specified"),
	)
	stored := valid.DeepCopy()
	stored.Spec.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "a", Expression: "once.this.compiled"}}
	checkstest.Update(t, r, stored,
		change("as before", func(p *policy) { p.Spec.Validations[0].Message = "no" }),
		change("other parameters", func(p *policy) { p.Spec.ParamKind.Kind = "Secret" },
			"spec.matchConditions[0].expression: Invalid value: compilation failed: ERROR: <input>:1:1: undeclared reference to 'once' (in container '')\n | once.this.compiled\n | ^"),
	)
	checkstest.UpdateStatus(t, r, valid,
		change("type checking", func(p *policy) {
			p.Status.TypeChecking = &admissionregistrationv1.TypeChecking{ExpressionWarnings: []admissionregistrationv1.ExpressionWarning{{}, {FieldRef: "spec[", Warning: "w"}}}
		}, "status.typeChecking.expressionWarnings[0].warning: Required value: ", "status.typeChecking.expressionWarnings[0].fieldRef: Required value: ",
			"status.typeChecking.expressionWarnings[1].fieldRef: Invalid value: invalid JSONPath: unterminated array"),
	)
	if got := r.Cells(valid); got[1] != int64(1) || got[2] != "v1/ConfigMap" {
		t.Errorf("shown as %v", got)
	}
	type binding = admissionregistrationv1.ValidatingAdmissionPolicyBinding
	bind := checkstest.Change[*binding]
	r = checkstest.Find(t, Resources(Grants{}), "validatingadmissionpolicybindings")
	bound := checkstest.Parse[*binding](t, r, "metadata: {name: x}\nspec: {policyName: x, validationActions: [Deny], paramRef: {name: p, parameterNotFoundAction: Deny}}")
	checkstest.Create(t, r, bound,
		bind("no policy", func(b *binding) { b.Spec.PolicyName = "" }, "spec.policyName: Required value: "),
		bind("no actions", func(b *binding) { b.Spec.ValidationActions = nil }, "spec.validationActions: Required value: at least one validation action is required"),
		bind("actions", func(b *binding) {
			b.Spec.ValidationActions = []admissionregistrationv1.ValidationAction{"Deny", "Warn", "Deny", "Sigh"}
		}, "spec.validationActions[2]: Duplicate value: ", `spec.validationActions[3]: Unsupported value: supported values: "Audit", "Deny", "Warn"`,
			"spec.validationActions: Invalid value: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"),
		bind("name and selector", func(b *binding) { b.Spec.ParamRef.Selector = &metav1.LabelSelector{} },
			"spec.paramRef.name: Forbidden: name and selector are mutually exclusive", "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive"),
		bind("not found", func(b *binding) {
			b.Spec.ParamRef.ParameterNotFoundAction = ptr.To(admissionregistrationv1.ParameterNotFoundActionType("Cry"))
		}, `spec.paramRef.parameterNotFoundAction: Unsupported value: supported values: "Deny", "Allow"`),
		bind("nothing to do", func(b *binding) { b.Spec.ParamRef.ParameterNotFoundAction = nil }, "spec.paramRef.parameterNotFoundAction: Required value: "),
		bind("match", func(b *binding) { b.Spec.MatchResources = &admissionregistrationv1.MatchResources{} }, "spec.matchResources.matchPolicy: Required value: ",
			"spec.matchResources.namespaceSelector: Required value: ", "spec.matchResources.objectSelector: Required value: "),
		bind("params", func(b *binding) { b.Spec.ParamRef.Name = "" }, "spec.paramRef: Required value: one of name or selector must be specified"),
	)
	for want, ref := range map[string]*admissionregistrationv1.ParamRef{
		"<unset>": nil, "*/p": {Name: "p"}, "n/p": {Name: "p", Namespace: "n"}, "a=b": {Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}},
	} {
		bound.Spec.ParamRef = ref
		if got := r.Cells(bound); got[1] != "x" || got[2] != want {
			t.Errorf("shown as %v, want %s", got, want)
		}
	}
	mutate := checkstest.Change[*admissionregistrationv1.MutatingAdmissionPolicy]
	r = checkstest.Find(t, Resources(Grants{}), "mutatingadmissionpolicies")
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
