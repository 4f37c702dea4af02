package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// failureAction is what the job's pod failure policy (KEP-3329) says about a
// failed pod: the action of the first rule that matches, with a message; an
// empty action if none does.
func failureAction(policy *batchv1.PodFailurePolicy, p *corev1.Pod) (batchv1.PodFailurePolicyAction, string) {
	if policy == nil || p.Status.Phase != corev1.PodFailed {
		return "", ""
	}
	for i, rule := range policy.Rules {
		if rule.OnExitCodes != nil {
			if c := exitedWith(rule.OnExitCodes, p); c != nil {
				return rule.Action, fmt.Sprintf("Container %s for pod %s/%s failed with exit code %d matching %s rule at index %d",
					c.Name, p.Namespace, p.Name, c.State.Terminated.ExitCode, rule.Action, i)
			}
			continue
		}
		for _, want := range rule.OnPodConditions {
			for _, have := range p.Status.Conditions {
				if have.Type == want.Type && have.Status == want.Status {
					return rule.Action, fmt.Sprintf("Pod %s/%s has condition %s matching %s rule at index %d", p.Namespace, p.Name, have.Type, rule.Action, i)
				}
			}
		}
	}
	return "", ""
}

func exitedWith(r *batchv1.PodFailurePolicyOnExitCodesRequirement, p *corev1.Pod) *corev1.ContainerStatus {
	all := append(slices.Clone(p.Status.ContainerStatuses), p.Status.InitContainerStatuses...)
	for i := range all {
		c := &all[i]
		if c.State.Terminated == nil || c.State.Terminated.ExitCode == 0 || r.ContainerName != nil && *r.ContainerName != c.Name {
			continue
		}
		if slices.Contains(r.Values, c.State.Terminated.ExitCode) == (r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
			return c
		}
	}
	return nil
}

// succeeds reports whether the succeeded indexes satisfy a rule of the success
// policy (KEP-3998).
func succeeds(policy *batchv1.SuccessPolicy, succeeded indexes, completions int) (message string, ok bool) {
	if policy == nil {
		return "", false
	}
	for i, rule := range policy.Rules {
		counted := succeeded
		needed := -1
		if rule.SucceededIndexes != nil {
			wanted := parseIndexes(*rule.SucceededIndexes, completions)
			needed = len(wanted)
			counted = nil
			for _, index := range wanted {
				if succeeded.has(index) {
					counted = append(counted, index)
				}
			}
		}
		if rule.SucceededCount != nil {
			needed = int(*rule.SucceededCount)
		}
		if needed >= 0 && len(counted) >= needed {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}
