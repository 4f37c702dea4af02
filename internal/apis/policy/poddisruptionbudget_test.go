package policy

import (
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

func TestPodDisruptionBudget(t *testing.T) {
	type budget = policyv1.PodDisruptionBudget
	change := checkstest.Change[*budget]
	r := checkstest.Find(t, Resources(), "poddisruptionbudgets")
	valid := checkstest.Parse[*budget](t, r, "metadata: {name: b, namespace: default}\nspec: {minAvailable: 50%, selector: {matchLabels: {a: b}}}")
	checkstest.Create(t, r, valid,
		change("both", func(b *budget) { b.Spec.MaxUnavailable = ptr.To(intstr.FromInt32(1)) }, "spec: Invalid value: minAvailable and maxUnavailable cannot be both set"),
		change("over", func(b *budget) { b.Spec.MinAvailable = ptr.To(intstr.FromString("101%")) }, "spec.minAvailable: Invalid value: must not be greater than 100%"),
		change("negative", func(b *budget) { b.Spec.MinAvailable = ptr.To(intstr.FromInt32(-1)) }, "spec.minAvailable: Invalid value: must be greater than or equal to 0"),
		change("policy", func(b *budget) {
			b.Spec.UnhealthyPodEvictionPolicy = ptr.To[policyv1.UnhealthyPodEvictionPolicyType]("Maybe")
		},
			`spec.unhealthyPodEvictionPolicy: Unsupported value: supported values: "AlwaysAllow", "IfHealthyBudget"`),
	)
	if got := r.Cells(valid); got[1] != "50%" || got[2] != "N/A" {
		t.Errorf("shown as %v", got)
	}
}
