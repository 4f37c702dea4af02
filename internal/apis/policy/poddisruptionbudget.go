package policy

import (
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func podDisruptionBudget() *apis.Resource {
	return apis.Of[*policyv1.PodDisruptionBudget]{
		Names: apis.Names{
			Group: "policy", Resource: "poddisruptionbudgets", Singular: "poddisruptionbudget", Kind: "PodDisruptionBudget",
			ShortNames: []string{"pdb"},
			Namespaced: true,
		},
		Version:    "v1",
		New:        func() *policyv1.PodDisruptionBudget { return &policyv1.PodDisruptionBudget{} },
		NewList:    func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} },
		HasStatus:  true,
		Generation: true,
	}.Resource()
}
