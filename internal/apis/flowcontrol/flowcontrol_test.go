package flowcontrol

import (
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
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
		change("level", func(s *schema) { s.Spec.PriorityLevelConfiguration.Name = "" }, "spec.priorityLevelConfiguration.name: Required value: "),
		change("nobody", func(s *schema) { s.Spec.Rules[0].Subjects = nil }, "spec.rules[0].subjects: Required value: subjects must contain at least one value"),
		change("user", func(s *schema) { s.Spec.Rules[0].Subjects[0].User = nil },
			"spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'"),
		change("nowhere", func(s *schema) { s.Spec.Rules[0].ResourceRules[0].Namespaces = nil },
			"spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace"),
	)
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
		change("exempt", func(p *level) { p.Name = "exempt" }, "spec.type: Invalid value: type must be 'Exempt' if and only if name is 'exempt'"),
		change("no limits", func(p *level) { p.Spec.Limited = nil }, "spec.limited: Required value: must not be empty when type is Limited"),
		change("lend", func(p *level) { p.Spec.Limited.LendablePercent = ptr.To[int32](101) }, "spec.limited.lendablePercent: Invalid value: must be between 0 and 100, inclusive"),
		change("hand", func(p *level) { p.Spec.Limited.LimitResponse.Queuing.HandSize = 65 },
			"spec.limited.limitResponse.queuing.handSize: Invalid value: should not be greater than queues (64)"),
	)
}
