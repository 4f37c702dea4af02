package policy

import (
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

func TestPodDisruptionBudget(t *testing.T) {
	type budget = policyv1.PodDisruptionBudget
	change := checkstest.Change[*budget]
	r := checkstest.Find(t, Resources(), "poddisruptionbudgets")
	badValue := func(b *budget) {
		b.Spec.Selector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "a", Operator: "In", Values: []string{"b c"}}}
	}
	const badValueText = "spec.selector.matchExpressions[0].values[0]: Invalid value: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
	valid := checkstest.Parse[*budget](t, r, "metadata: {name: b, namespace: default}\nspec: {minAvailable: 50%, selector: {matchLabels: {a: b}}}")
	checkstest.Create(t, r, valid,
		change("both", func(b *budget) { b.Spec.MaxUnavailable = ptr.To(intstr.FromInt32(1)) }, "spec: Invalid value: minAvailable and maxUnavailable cannot be both set"),
		change("over", func(b *budget) { b.Spec.MinAvailable = ptr.To(intstr.FromString("101%")) }, "spec.minAvailable: Invalid value: must not be greater than 100%"),
		change("negative", func(b *budget) { b.Spec.MinAvailable = ptr.To(intstr.FromInt32(-1)) }, "spec.minAvailable: Invalid value: must be greater than or equal to 0"),
		change("policy", func(b *budget) {
			b.Spec.UnhealthyPodEvictionPolicy = ptr.To[policyv1.UnhealthyPodEvictionPolicyType]("Maybe")
		},
			`spec.unhealthyPodEvictionPolicy: Unsupported value: supported values: "AlwaysAllow", "IfHealthyBudget"`),
		change("no policy", func(b *budget) {
			b.Spec.UnhealthyPodEvictionPolicy = ptr.To[policyv1.UnhealthyPodEvictionPolicyType]("")
		},
			`spec.unhealthyPodEvictionPolicy: Unsupported value: supported values: "AlwaysAllow", "IfHealthyBudget"`),
		change("selector", badValue, badValueText),
	)
	checkstest.Update(t, r, valid, change("selector", badValue, badValueText))
	old := valid.DeepCopy()
	badValue(old)
	checkstest.Update(t, r, old, change("anything else", func(b *budget) { b.Spec.MinAvailable = ptr.To(intstr.FromInt32(1)) }))
	all := valid.DeepCopy()
	all.Spec = policyv1.PodDisruptionBudgetSpec{
		MinAvailable: ptr.To(intstr.FromInt32(-1)), MaxUnavailable: ptr.To(intstr.FromString("101%")),
		Selector:                   &metav1.LabelSelector{MatchLabels: map[string]string{"a b": ""}},
		UnhealthyPodEvictionPolicy: ptr.To[policyv1.UnhealthyPodEvictionPolicyType]("Maybe"),
	}
	checkstest.InOrder(t, r.Validate(t.Context(), all),
		"spec: Invalid value: minAvailable and maxUnavailable cannot be both set",
		"spec.minAvailable: Invalid value: must be greater than or equal to 0",
		"spec.maxUnavailable: Invalid value: must not be greater than 100%",
		"spec.selector.matchLabels: Invalid value: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
		`spec.unhealthyPodEvictionPolicy: Unsupported value: supported values: "AlwaysAllow", "IfHealthyBudget"`)
	checkstest.UpdateStatus(t, r, valid,
		change("numbers", func(b *budget) {
			b.Status = policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: -1, CurrentHealthy: -1, DesiredHealthy: -1, ExpectedPods: -1}
		},
			"status.disruptionsAllowed: Invalid value: must be greater than or equal to 0",
			"status.currentHealthy: Invalid value: must be greater than or equal to 0",
			"status.desiredHealthy: Invalid value: must be greater than or equal to 0",
			"status.expectedPods: Invalid value: must be greater than or equal to 0"),
		change("condition", func(b *budget) { b.Status.Conditions = []metav1.Condition{{Type: "T", Status: "Maybe", Reason: "R"}} },
			`status.conditions[0].status: Unsupported value: supported values: "False", "True", "Unknown"`,
			"status.conditions[0].lastTransitionTime: Required value: "),
	)
	if got := r.Cells(valid); got[1] != "50%" || got[2] != "N/A" {
		t.Errorf("shown as %v", got)
	}
}
