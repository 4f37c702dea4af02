// Package podsecurity holds pods to the Pod Security Standards that their
// namespace's labels ask for (PodSecurity, KEP-2579): enforce refuses pods,
// warn tells their makers and audit the audit log, also about workloads.
package podsecurity

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/admission"
)

// mostPods is how many pods of a namespace are looked at when its labels
// change, and how many groups of them are told of.
const mostPods, mostWarnings = 3000, 10

// Plugin implements admission.Validator.
type Plugin struct {
	Cache   client.Reader
	config  settings
	metrics *Metrics
}

// New returns the plug-in, configured as c says. It counts in m, which may be
// nil.
func New(cache client.Reader, c Configuration, m *Metrics) (*Plugin, error) {
	s, err := c.settings()
	return &Plugin{cache, s, m}, err
}

// Validate implements admission.Validator.
func (p *Plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	if a.Operation != admission.Create && a.Operation != admission.Update {
		return nil
	}
	if a.Resource.Group == "" && a.Resource.Resource == "namespaces" && a.Subresource == "" {
		return p.namespace(ctx, a)
	}
	if a.Resource.Group == "" && a.Resource.Resource == "pods" {
		return p.pod(ctx, a)
	}
	if a.Subresource != "" {
		return nil
	}
	meta, spec := template(a.Object)
	if spec == nil || p.exempt(a) {
		return nil
	}
	policy, err := p.policy(ctx, a)
	if err != nil || policy.warn.level == privileged && policy.audit.level == privileged || p.exemptClass(a, spec) {
		return client.IgnoreNotFound(err)
	}
	p.audit(a, policy, meta, spec)
	p.warn(a, policy, meta, spec)
	return nil
}

// exempt reports whether nothing is to be said about a write, whatever its
// pods, and tells the audit log why.
func (p *Plugin) exempt(a *admission.Attributes) bool {
	switch {
	case slices.Contains(p.config.namespaces, a.Namespace):
		p.letThrough(a, "namespace")
	case a.User != nil && slices.Contains(p.config.users, a.User.Name):
		p.letThrough(a, "user")
	default:
		return false
	}
	return true
}

// exemptClass is exempt for pods of a runtime class.
func (p *Plugin) exemptClass(a *admission.Attributes, spec *corev1.PodSpec) bool {
	if spec.RuntimeClassName == nil || !slices.Contains(p.config.runtimeClasses, *spec.RuntimeClassName) {
		return false
	}
	p.letThrough(a, "runtimeClass")
	return true
}

func (p *Plugin) letThrough(a *admission.Attributes, why string) {
	annotate(a, "exempt", why)
	p.metrics.exempted(a)
}

func annotate(a *admission.Attributes, key, value string) {
	if a.Annotate != nil {
		a.Annotate(labelPrefix+key, value)
	}
}

func (p *Plugin) audit(a *admission.Attributes, policy policy, meta *metav1.ObjectMeta, spec *corev1.PodSpec) {
	if found := evaluate(policy.audit, meta, spec); len(found) > 0 {
		p.metrics.evaluated(deny, policy.audit, "audit", a)
		annotate(a, "audit-violations", fmt.Sprintf("would violate PodSecurity %q: %s", policy.audit, describe(found)))
	}
}

// policy returns what the labels of the write's namespace ask for.
func (p *Plugin) policy(ctx context.Context, a *admission.Attributes) (policy, error) {
	namespace := &corev1.Namespace{}
	if err := p.Cache.Get(ctx, client.ObjectKey{Name: a.Namespace}, namespace, client.UnsafeDisableDeepCopy); err != nil {
		if !apierrors.IsNotFound(err) {
			p.metrics.failed(true, a)
		}
		return policy{}, err
	}
	found, errs := parsePolicy(namespace.Labels, p.config.defaults)
	if len(errs) > 0 {
		p.metrics.failed(false, a)
		annotate(a, "error", fmt.Sprintf("Failed to parse policy: %v", errs.ToAggregate()))
	}
	return found, nil
}

func (p *Plugin) pod(ctx context.Context, a *admission.Attributes) error {
	if !slices.Contains([]string{"", "ephemeralcontainers", "resize"}, a.Subresource) {
		return nil
	}
	pod := a.Object.(*corev1.Pod)
	if p.exempt(a) {
		return nil
	}
	policy, err := p.policy(ctx, a)
	if apierrors.IsNotFound(err) {
		return nil // a namespace made a moment ago, in the way of its labels' default
	}
	if err != nil {
		return err
	}
	if policy.enforce.level == privileged && policy.audit.level == privileged && policy.warn.level == privileged {
		annotate(a, "enforce-policy", policy.enforce.String())
		p.metrics.evaluated(allow, policy.enforce, "enforce", a)
		return nil
	}
	if old, ok := a.Old.(*corev1.Pod); ok && !significant(old, pod) {
		return nil
	}
	if p.exemptClass(a, &pod.Spec) {
		return nil
	}
	annotate(a, "enforce-policy", policy.enforce.String())
	found := evaluate(policy.enforce, &pod.ObjectMeta, &pod.Spec)
	if len(found) == 0 {
		p.metrics.evaluated(allow, policy.enforce, "enforce", a)
	} else {
		p.metrics.evaluated(deny, policy.enforce, "enforce", a)
	}
	p.audit(a, policy, &pod.ObjectMeta, &pod.Spec)
	if len(found) > 0 {
		return a.Forbidden("violates PodSecurity %q: %s", policy.enforce, describe(found))
	}
	p.warn(a, policy, &pod.ObjectMeta, &pod.Spec)
	return nil
}

func (p *Plugin) warn(a *admission.Attributes, policy policy, meta *metav1.ObjectMeta, spec *corev1.PodSpec) {
	found := evaluate(policy.warn, meta, spec)
	if len(found) == 0 {
		return
	}
	p.metrics.evaluated(deny, policy.warn, "warn", a)
	if a.Warn != nil {
		a.Warn(fmt.Sprintf("would violate PodSecurity %q: %s", policy.warn, describe(found)))
	}
}

// significant reports whether an update may change what the standards look at.
func significant(old, pod *corev1.Pod) bool {
	strip := func(p *corev1.Pod) (*corev1.PodSpec, map[string]string) {
		spec := p.Spec.DeepCopy()
		spec.ActiveDeadlineSeconds, spec.Tolerations, spec.NodeName = nil, nil, ""
		annotations := map[string]string{}
		for key, value := range p.Annotations {
			if strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) {
				annotations[key] = value
			}
		}
		return spec, annotations
	}
	oldSpec, oldAnnotations := strip(old)
	spec, annotations := strip(pod)
	return !equality.Semantic.DeepEqual(oldSpec, spec) || !equality.Semantic.DeepEqual(oldAnnotations, annotations)
}

// template returns the pods that a workload makes, or nil.
func template(obj runtime.Object) (*metav1.ObjectMeta, *corev1.PodSpec) {
	var t *corev1.PodTemplateSpec
	switch o := obj.(type) {
	case *appsv1.Deployment:
		t = &o.Spec.Template
	case *appsv1.ReplicaSet:
		t = &o.Spec.Template
	case *appsv1.StatefulSet:
		t = &o.Spec.Template
	case *appsv1.DaemonSet:
		t = &o.Spec.Template
	case *batchv1.Job:
		t = &o.Spec.Template
	case *batchv1.CronJob:
		t = &o.Spec.JobTemplate.Spec.Template
	case *corev1.PodTemplate:
		t = &o.Template
	case *corev1.ReplicationController:
		t = o.Spec.Template
	}
	if t == nil {
		return nil, nil
	}
	return &t.ObjectMeta, &t.Spec
}

// namespace checks the labels, and when they come to enforce more says which
// pods that are there would be refused now.
func (p *Plugin) namespace(ctx context.Context, a *admission.Attributes) error {
	namespace := a.Object.(*corev1.Namespace)
	policy, errs := parsePolicy(namespace.Labels, p.config.defaults)
	old, isUpdate := a.Old.(*corev1.Namespace)
	if !isUpdate {
		if len(errs) > 0 {
			return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Namespace").GroupKind(), namespace.Name, errs)
		}
		return nil
	}
	before, oldErrs := parsePolicy(old.Labels, p.config.defaults)
	if len(errs) > 0 && (len(oldErrs) == 0 || !equality.Semantic.DeepEqual(errs, oldErrs)) {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Namespace").GroupKind(), namespace.Name, errs)
	}
	if policy.enforce == before.enforce || policy.enforce.level <= before.enforce.level && policy.enforce.version == before.enforce.version || a.Warn == nil {
		return nil
	}
	if slices.Contains(p.config.namespaces, namespace.Name) {
		a.Warn(fmt.Sprintf("namespace %q is exempt from Pod Security, and the policy (enforce=%q) will be ignored", namespace.Name, policy.enforce))
		return nil
	}
	var pods corev1.PodList
	if err := p.Cache.List(ctx, &pods, client.InNamespace(namespace.Name), client.Limit(mostPods), client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	for _, text := range existing(namespace.Name, policy.enforce, pods.Items) {
		a.Warn(text)
	}
	return nil
}

// existing returns the warnings about pods that violate the standard, those
// with the same reasons together.
func existing(namespace string, s standard, pods []corev1.Pod) (warnings []string) {
	type group struct {
		first  string
		others int
	}
	groups := map[string]*group{}
	var order []string
	for i := range pods {
		found := evaluate(s, &pods[i].ObjectMeta, &pods[i].Spec)
		if len(found) == 0 {
			continue
		}
		var reasons []string
		for _, v := range found {
			reasons = append(reasons, v.reason)
		}
		why := strings.Join(reasons, ", ")
		if g, ok := groups[why]; ok {
			g.others++
			g.first = min(g.first, pods[i].Name)
			continue
		}
		groups[why] = &group{first: pods[i].Name}
		order = append(order, why)
	}
	if len(order) == 0 {
		return nil
	}
	slices.SortFunc(order, func(a, b string) int { return strings.Compare(groups[a].first, groups[b].first) })
	warnings = append(warnings, fmt.Sprintf("existing pods in namespace %q violate the new PodSecurity enforce level %q", namespace, s))
	for _, why := range order[:min(len(order), mostWarnings)] {
		text := groups[why].first
		switch n := groups[why].others; {
		case n == 1:
			text += " (and 1 other pod)"
		case n > 1:
			text += fmt.Sprintf(" (and %d other pods)", n)
		}
		warnings = append(warnings, text+": "+why)
	}
	return warnings
}
