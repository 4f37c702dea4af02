package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (p *problems) schedulingGates(at *field.Path, gates []corev1.PodSchedulingGate) {
	seen := sets.New[string]()
	for i, gate := range gates {
		p.qualifiedName(at.Index(i), gate.Name)
		if seen.Has(gate.Name) {
			p.duplicate(at.Index(i), gate.Name)
		}
		seen.Insert(gate.Name)
	}
}

func (p *problems) tolerations(at *field.Path, tolerations []corev1.Toleration) {
	for i := range tolerations {
		t, at := &tolerations[i], at.Index(i)
		if t.Key != "" {
			p.add(metav1validation.ValidateLabelName(t.Key, at.Child("key")))
		} else if t.Operator != corev1.TolerationOpExists {
			p.invalid(at.Child("operator"), t.Operator, `operator must be Exists when `+"`key`"+` is empty, which means "match all values and all keys"`)
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			p.invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if messages := validation.IsValidLabelValue(t.Value); len(messages) > 0 {
				p.invalid(at.Child("operator"), t.Value, strings.Join(messages, ";"))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				p.invalid(at.Child("operator"), t.Value, "value must be empty when `operator` is 'Exists'")
			}
		default:
			known := []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}
			// Known, too, but of a feature that upstream has not turned on.
			if more := []corev1.TolerationOperator{corev1.TolerationOpLt, corev1.TolerationOpGt}; contains(more, t.Operator) {
				known = append(known, more...)
			}
			p.one(field.NotSupported(at.Child("operator"), t.Operator, known))
		}
		anyOf(p, at.Child("effect"), notEmpty(t.Effect), taintEffects()...)
	}
}

func (p *problems) affinity(at *field.Path, a *corev1.Affinity) {
	if a == nil {
		return
	}
	const required, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	if n := a.NodeAffinity; n != nil {
		at := at.Child("nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			p.nodeSelector(at.Child(required), n.RequiredDuringSchedulingIgnoredDuringExecution)
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			term, at := &n.PreferredDuringSchedulingIgnoredDuringExecution[i], at.Child(preferred).Index(i)
			p.weight(at, term.Weight)
			// A wrong value only means that no node is preferred for it.
			p.nodeSelectorTerm(at.Child("preference"), &term.Preference, false)
		}
	}
	pods := func(at *field.Path, hard []corev1.PodAffinityTerm, soft []corev1.WeightedPodAffinityTerm) {
		for i := range hard {
			p.podAffinityTerm(at.Child(required).Index(i), &hard[i])
		}
		for i := range soft {
			at := at.Child(preferred).Index(i)
			p.weight(at, soft[i].Weight)
			p.podAffinityTerm(at.Child("podAffinityTerm"), &soft[i].PodAffinityTerm)
		}
	}
	if t := a.PodAffinity; t != nil {
		pods(at.Child("podAffinity"), t.RequiredDuringSchedulingIgnoredDuringExecution, t.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if t := a.PodAntiAffinity; t != nil {
		pods(at.Child("podAntiAffinity"), t.RequiredDuringSchedulingIgnoredDuringExecution, t.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func (p *problems) weight(at *field.Path, weight int32) {
	if weight < 1 || weight > 100 {
		p.invalid(at.Child("weight"), weight, "must be in the range 1-100")
	}
}

func (p *problems) nodeSelector(at *field.Path, s *corev1.NodeSelector) {
	at = at.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		p.missing(at, "must have at least one node selector term")
	}
	for i := range s.NodeSelectorTerms {
		p.nodeSelectorTerm(at.Index(i), &s.NodeSelectorTerms[i], true)
	}
}

func (p *problems) nodeSelectorTerm(at *field.Path, t *corev1.NodeSelectorTerm, checkValues bool) {
	for i, r := range t.MatchExpressions {
		p.nodeRequirement(at.Child("matchExpressions").Index(i), r, checkValues)
	}
	for i, r := range t.MatchFields {
		at := at.Child("matchFields").Index(i)
		switch r.Operator {
		case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
			if len(r.Values) != 1 {
				p.missing(at.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
			}
		default:
			p.invalid(at.Child("operator"), r.Operator, "not a valid selector operator")
		}
		if r.Key != metav1.ObjectNameField {
			p.invalid(at.Child("key"), r.Key, "not a valid field selector key")
			continue
		}
		for j, value := range r.Values {
			p.invalids(at.Child("values").Index(j), value, apivalidation.NameIsDNSSubdomain(value, false))
		}
	}
}

func (p *problems) nodeRequirement(at *field.Path, r corev1.NodeSelectorRequirement, checkValues bool) {
	values := at.Child("values")
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			p.missing(values, "must be specified when `operator` is 'In' or 'NotIn'")
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			p.forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			p.missing(values, "must be specified single value when `operator` is 'Lt' or 'Gt'")
		}
	default:
		p.invalid(at.Child("operator"), r.Operator, "not a valid selector operator")
	}
	p.add(metav1validation.ValidateLabelName(r.Key, at.Child("key")))
	if checkValues {
		for i, value := range r.Values {
			p.invalids(values.Index(i), value, validation.IsValidLabelValue(value))
		}
	}
}

func (p *problems) podAffinityTerm(at *field.Path, t *corev1.PodAffinityTerm) {
	strict := metav1validation.LabelSelectorValidationOptions{}
	p.add(metav1validation.ValidateLabelSelector(t.LabelSelector, strict, at.Child("labelSelector")))
	p.add(metav1validation.ValidateLabelSelector(t.NamespaceSelector, strict, at.Child("namespaceSelector")))
	for _, name := range t.Namespaces {
		p.invalids(at.Child("namespace"), name, apivalidation.ValidateNamespaceName(name, false))
	}
	p.affinityLabelKeys(at, t)
	if t.TopologyKey == "" {
		p.missing(at.Child("topologyKey"), "can not be empty")
	}
	p.add(metav1validation.ValidateLabelName(t.TopologyKey, at.Child("topologyKey")))
}

func (p *problems) affinityLabelKeys(at *field.Path, t *corev1.PodAffinityTerm) {
	names := func(at *field.Path, keys []string) {
		if len(keys) > 0 && t.LabelSelector == nil {
			p.forbidden(at, "must not be specified when labelSelector is not set")
			return
		}
		for i, key := range keys {
			p.add(metav1validation.ValidateLabelName(key, at.Index(i)))
		}
	}
	names(at.Child("matchLabelKeys"), t.MatchLabelKeys)
	names(at.Child("mismatchLabelKeys"), t.MismatchLabelKeys)
	if t.LabelSelector != nil {
		// The keys were merged into the selector when the pod was made, so one
		// that it has twice was already in there.
		seen := sets.KeySet(t.LabelSelector.MatchLabels)
		for _, r := range t.LabelSelector.MatchExpressions {
			for i, key := range t.MatchLabelKeys {
				if key == r.Key && seen.Has(key) {
					p.invalid(at.Index(i), key, "exists in both matchLabelKeys and labelSelector")
				}
			}
			seen.Insert(r.Key)
		}
	}
	for i, key := range t.MatchLabelKeys {
		if contains(t.MismatchLabelKeys, key) {
			p.invalid(at.Child("matchLabelKeys").Index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys")
		}
	}
}

func (p *problems) spreadConstraints(at *field.Path, all []corev1.TopologySpreadConstraint) {
	for i := range all {
		c, at := &all[i], at.Index(i)
		if c.MaxSkew <= 0 {
			p.invalid(at.Child("maxSkew"), c.MaxSkew, "must be greater than zero")
		}
		if c.TopologyKey == "" {
			p.missing(at.Child("topologyKey"), "can not be empty")
		}
		anyOf(p, at.Child("whenUnsatisfiable"), &c.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)
		for j := range all[i+1:] {
			if other := &all[i+1+j]; other.TopologyKey == c.TopologyKey && other.WhenUnsatisfiable == c.WhenUnsatisfiable {
				p.duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable))
				break
			}
		}
		if n := c.MinDomains; n != nil {
			if *n <= 0 {
				p.invalid(at.Child("minDomains"), n, "must be greater than zero")
			}
			if c.WhenUnsatisfiable != corev1.DoNotSchedule {
				p.invalid(at.Child("minDomains"), n, fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, c.WhenUnsatisfiable))
			}
		}
		anyOf(p, at.Child("nodeAffinityPolicy"), c.NodeAffinityPolicy, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		anyOf(p, at.Child("nodeTaintsPolicy"), c.NodeTaintsPolicy, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		p.spreadLabelKeys(at.Child("matchLabelKeys"), c)
		p.add(metav1validation.ValidateLabelSelector(c.LabelSelector, metav1validation.LabelSelectorValidationOptions{}, at.Child("labelSelector")))
	}
}

func (p *problems) spreadLabelKeys(at *field.Path, c *corev1.TopologySpreadConstraint) {
	if len(c.MatchLabelKeys) == 0 {
		return
	}
	if c.LabelSelector == nil {
		p.forbidden(at, "must not be specified when labelSelector is not set")
		return
	}
	for i, key := range c.MatchLabelKeys {
		p.add(metav1validation.ValidateLabelName(key, at.Index(i)))
		uses := 0
		if _, ok := c.LabelSelector.MatchLabels[key]; ok {
			uses++
		}
		for _, r := range c.LabelSelector.MatchExpressions {
			if r.Key == key {
				uses++
				// This one was merged from the key when the pod was made.
				if r.Operator == metav1.LabelSelectorOpIn && len(r.Values) == 1 {
					uses--
				}
			}
		}
		if uses > 0 {
			p.invalid(at.Index(i), key, "exists in both matchLabelKeys and labelSelector")
		}
	}
}
