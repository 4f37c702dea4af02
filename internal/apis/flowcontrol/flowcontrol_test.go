package flowcontrol

import (
	"slices"
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

const (
	resources = "spec.rules[0].resourceRules[0]."
	paths     = "spec.rules[0].nonResourceRules[0].nonResourceURLs"
)

func TestFlowSchema(t *testing.T) {
	type schema = flowcontrolv1.FlowSchema
	change := checkstest.Change[*schema]
	r := checkstest.Find(t, Resources(), "flowschemas")
	valid := checkstest.Parse[*schema](t, r, `
metadata: {name: x}
spec:
  priorityLevelConfiguration: {name: low}
  rules: [{subjects: [{kind: User, user: {name: "*"}}], resourceRules: [{verbs: [get], apiGroups: [""], resources: [pods], namespaces: ["*"]}]}]
`)
	if valid.Spec.MatchingPrecedence != 1000 {
		t.Errorf("precedence is %d", valid.Spec.MatchingPrecedence)
	}
	checkstest.Create(t, r, valid,
		change("first", func(s *schema) { s.Spec.MatchingPrecedence = 1 }, "spec.matchingPrecedence: Invalid value: only the schema named 'exempt' may have matchingPrecedence 1"),
		change("last", func(s *schema) { s.Spec.MatchingPrecedence = 10001 }, "spec.matchingPrecedence: Invalid value: must not be greater than 10000"),
		change("level", func(s *schema) { s.Spec.PriorityLevelConfiguration.Name = "" }, "spec.priorityLevelConfiguration.name: Required value: must reference a priority level"),
		change("nobody", func(s *schema) { s.Spec.Rules[0].Subjects = nil }, "spec.rules[0].subjects: Required value: subjects must contain at least one value"),
		change("user", func(s *schema) { s.Spec.Rules[0].Subjects[0].User = nil },
			"spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'"),
		change("nowhere", func(s *schema) { s.Spec.Rules[0].ResourceRules[0].Namespaces = nil },
			"spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace"),
		change("no level", func(s *schema) { s.Spec.MatchingPrecedence = -1 }, "spec.matchingPrecedence: Invalid value: must be a positive value"),
		change("method", func(s *schema) { s.Spec.DistinguisherMethod = &flowcontrolv1.FlowDistinguisherMethod{} },
			`spec.distinguisherMethod.type: Unsupported value: supported values: "ByNamespace", "ByUser"`),
		change("nothing", func(s *schema) { s.Spec.Rules[0].ResourceRules = nil },
			"spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty"),
		change("empty rule", func(s *schema) {
			s.Spec.Rules[0].ResourceRules[0] = flowcontrolv1.ResourcePolicyRule{ClusterScope: true}
		},
			resources+"verbs: Required value: verbs must contain at least one value", resources+"apiGroups: Required value: resource rules must supply at least one api group",
			resources+"resources: Required value: resource rules must supply at least one resource"),
		change("wildcards", func(s *schema) {
			both := []string{"*", "get"}
			s.Spec.Rules[0].ResourceRules[0] = flowcontrolv1.ResourcePolicyRule{Verbs: both, APIGroups: both, Resources: both, Namespaces: both}
		}, resources+"verbs: Invalid value: if '*' is present, must not specify other verbs", resources+"apiGroups: Invalid value: if '*' is present, must not specify other api groups",
			resources+"resources: Invalid value: if '*' is present, must not specify other resources", resources+"namespaces: Invalid value: if '*' is present, must not specify other namespaces"),
		change("verb", func(s *schema) { s.Spec.Rules[0].ResourceRules[0].Verbs = []string{"read"} },
			resources+`verbs: Unsupported value: supported values: "create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"`),
		change("namespace", func(s *schema) { s.Spec.Rules[0].ResourceRules[0].Namespaces = []string{"-foo"} },
			resources+"namespaces[0]: Invalid value: each member of this list must be '*' or a DNS-1123 label; a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"),
		change("paths", func(s *schema) {
			s.Spec.Rules[0].NonResourceRules = []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"", "a", "/a b", "/a//b", "/a/*/b", "/a*", "/", "/a/*"}}}
		}, paths+"[0]: Invalid value: must not be empty", paths+"[1]: Invalid value: must start with slash", paths+"[2]: Invalid value: must not contain white-space",
			paths+"[3]: Invalid value: must not contain double slash", paths+"[4]: Invalid value: wildcard can only do suffix matching",
			paths+"[5]: Invalid value: wildcard can only do suffix matching"),
		change("all paths", func(s *schema) {
			s.Spec.Rules[0].NonResourceRules = []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"*", ""}}}
		}, paths+": Invalid value: if '*' is present, must not specify other non-resource URLs"),
		change("kind", func(s *schema) { s.Spec.Rules[0].Subjects[0].Kind = "Robot" }, `spec.rules[0].subjects[0].kind: Unsupported value: supported values: "Group", "ServiceAccount", "User"`),
		change("account", func(s *schema) {
			s.Spec.Rules[0].Subjects[0] = flowcontrolv1.Subject{Kind: "ServiceAccount", ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Name: "*"}, Group: &flowcontrolv1.GroupSubject{}}
		}, "spec.rules[0].subjects[0].serviceAccount.namespace: Required value: must specify namespace for service account",
			"spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'"),
		change("fixed", func(s *schema) { s.Name = "catch-all" }, "spec: Invalid value: spec of 'catch-all' must equal the fixed value"),
	)
	checkstest.UpdateStatus(t, r, valid,
		change("conditions", func(s *schema) { s.Status.Conditions = make([]flowcontrolv1.FlowSchemaCondition, 2) },
			"status.conditions[0].type: Required value: ", "status.conditions[1].type: Required value: ", "status.conditions[1].type: Duplicate value: "),
	)
	if got := r.Cells(valid); !slices.Equal(got[1:4], []any{"low", int64(1000), "<none>"}) || got[5] != "?" {
		t.Errorf("shown as %v", got)
	}
	for name, precedence := range map[string]int32{"exempt": 1, "catch-all": 10000} {
		fixed, ok := fixedSchema(name)
		if !ok || fixed.MatchingPrecedence != precedence {
			t.Errorf("%s: %+v", name, fixed)
		}
		s := &schema{Spec: fixed}
		s.Name = name
		checkstest.Errors(t, r.Validate(t.Context(), s))
	}
}

func TestPriorityLevel(t *testing.T) {
	type level = flowcontrolv1.PriorityLevelConfiguration
	change := checkstest.Change[*level]
	r := checkstest.Find(t, Resources(), "prioritylevelconfigurations")
	valid := checkstest.Parse[*level](t, r, "metadata: {name: low}\nspec: {type: Limited, limited: {limitResponse: {type: Queue, queuing: {}}}}")
	l := valid.Spec.Limited
	if q := l.LimitResponse.Queuing; *l.NominalConcurrencyShares != 30 || *l.LendablePercent != 0 || q.Queues != 64 || q.HandSize != 8 || q.QueueLengthLimit != 50 {
		t.Errorf("wrong defaults: %+v", l)
	}
	checkstest.Create(t, r, valid,
		change("exempt", func(p *level) { p.Name = "exempt" }, "spec.type: Invalid value: must be 'Exempt' if and only if `name` is 'exempt'",
			"spec: Invalid value: spec of 'exempt' except the 'spec.exempt' field must equal the fixed value"),
		change("exempt and limited", func(p *level) {
			p.Name, p.Spec.Type, p.Spec.Exempt = "exempt", "Exempt", &flowcontrolv1.ExemptPriorityLevelConfiguration{NominalConcurrencyShares: ptr.To[int32](-1), LendablePercent: ptr.To[int32](-1)}
		}, "spec.limited: Forbidden: must be nil if the type is not Limited", "spec: Invalid value: spec of 'exempt' except the 'spec.exempt' field must equal the fixed value",
			"spec.exempt.nominalConcurrencyShares: Invalid value: must be a non-negative integer", "spec.exempt.lendablePercent: Invalid value: must be between 0 and 100, inclusive"),
		change("exempt shares", func(p *level) {
			p.Name = "exempt"
			p.Spec = flowcontrolv1.PriorityLevelConfigurationSpec{Type: "Exempt", Exempt: &flowcontrolv1.ExemptPriorityLevelConfiguration{NominalConcurrencyShares: ptr.To[int32](7)}}
		}),
		change("catch-all", func(p *level) { p.Name = "catch-all" }, "spec: Invalid value: spec of 'catch-all' must equal the fixed value"),
		change("fixed catch-all", func(p *level) {
			p.Name, p.Spec.Limited.NominalConcurrencyShares, p.Spec.Limited.LimitResponse = "catch-all", ptr.To[int32](5), flowcontrolv1.LimitResponse{Type: "Reject"}
		}),
		change("type", func(p *level) { p.Spec.Type = "" }, "spec.type: Required value: "),
		change("response", func(p *level) { p.Spec.Limited.LimitResponse.Type = "Wait" }, `spec.limited.limitResponse.type: Unsupported value: supported values: "Queue", "Reject"`),
		change("reject", func(p *level) { p.Spec.Limited.LimitResponse.Type = "Reject" },
			"spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited"),
		change("no queues", func(p *level) { p.Spec.Limited.LimitResponse.Queuing = nil },
			"spec.limited.limitResponse.queuing: Required value: must not be empty if limited.limitResponse.type is Limited"),
		change("borrow", func(p *level) { p.Spec.Limited.BorrowingLimitPercent = ptr.To[int32](-1) },
			"spec.limited.borrowingLimitPercent: Invalid value: if specified, must be a non-negative integer"),
		change("bits", func(p *level) { p.Spec.Limited.LimitResponse.Queuing.Queues = 512 },
			"spec.limited.limitResponse.queuing.handSize: Invalid value: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60"),
		change("queues", func(p *level) {
			p.Spec.Limited.LimitResponse.Queuing = &flowcontrolv1.QueuingConfiguration{Queues: 10_000_001, HandSize: 1}
		}, "spec.limited.limitResponse.queuing.queues: Invalid value: must not be greater than 10000000",
			"spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: must be positive"),
		change("no limits", func(p *level) { p.Spec.Limited = nil }, "spec.limited: Required value: must not be empty when type is Limited"),
		change("lend", func(p *level) { p.Spec.Limited.LendablePercent = ptr.To[int32](101) }, "spec.limited.lendablePercent: Invalid value: must be between 0 and 100, inclusive"),
		change("hand", func(p *level) { p.Spec.Limited.LimitResponse.Queuing.HandSize = 65 },
			"spec.limited.limitResponse.queuing.handSize: Invalid value: should not be greater than queues (64)"),
	)
	if got := r.Cells(valid); !slices.Equal(got[1:6], []any{"Limited", int64(30), int64(64), int64(8), int64(50)}) {
		t.Errorf("shown as %v", got)
	}
	valid.Spec.Limited.LimitResponse.Queuing = nil
	if got := r.Cells(valid); !slices.Equal(got[1:6], []any{"Limited", int64(30), "<none>", "<none>", "<none>"}) {
		t.Errorf("shown as %v", got)
	}
}
