package defaultpreemption

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/internal/scheduler/framework"
)

// budgets are the disruption budgets by namespace.
type budgets struct{ byNamespace map[string][]budget }

type budget struct {
	selector labels.Selector
	allowed  int32
	// going are pods that the budget has allowed to go.
	going map[string]metav1.Time
}

func newBudgets(all []policyv1.PodDisruptionBudget) *budgets {
	b := &budgets{byNamespace: make(map[string][]budget)}
	for i := range all {
		o := &all[i]
		selector, err := metav1.LabelSelectorAsSelector(o.Spec.Selector)
		if err != nil || selector.Empty() {
			// It selects nothing here.
			continue
		}
		b.byNamespace[o.Namespace] = append(b.byNamespace[o.Namespace], budget{selector, o.Status.DisruptionsAllowed, o.Status.DisruptedPods})
	}
	return b
}

// split returns the pods that a budget protects, were all of pods to go in that
// order, and the others.
func (b *budgets) split(pods []*framework.PodInfo) (protected, free []*framework.PodInfo) {
	spent := make(map[*budget]int32)
	for _, p := range pods {
		violates := false
		all := b.byNamespace[p.Namespace]
		for i := range all {
			o := &all[i]
			if len(p.Labels) == 0 || !o.selector.Matches(labels.Set(p.Labels)) {
				continue
			}
			if _, gone := o.going[p.Name]; gone {
				continue
			}
			spent[o]++
			violates = violates || spent[o] > o.allowed
		}
		if violates {
			protected = append(protected, p)
		} else {
			free = append(free, p)
		}
	}
	return protected, free
}
