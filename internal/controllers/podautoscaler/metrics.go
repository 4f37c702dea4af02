package podautoscaler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controller"
)

// proposal is what one metric asks for.
type proposal struct {
	replicas int32
	// metric describes it in the words of events.
	metric string
	status autoscalingv2.MetricStatus
}

// failure is why a metric asks for nothing; reason is that of the condition,
// context what the error is about where it is not the only one.
type failure struct {
	reason, context string
	error
}

// recommend returns the largest size that a metric asks for, and which. If
// some metrics fail, the target does not become smaller by what the others say.
func (a *autoscaling) recommend(ctx context.Context, scale *autoscalingv1.Scale) (replicas int32, metric string, err error) {
	selector, err := a.selector(scale)
	if err != nil {
		return 0, "", err
	}
	c, err := a.calculation(ctx, scale, selector)
	if err != nil {
		return 0, "", err
	}
	specs := a.object.Spec.Metrics
	statuses := make([]autoscalingv2.MetricStatus, len(specs))
	var first *failure
	failed := 0
	for i := range specs {
		p, err := c.propose(ctx, &specs[i], selector, scale.Status.Replicas)
		if err != nil {
			if failed++; first == nil {
				first = err
			}
			continue
		}
		statuses[i] = p.status
		if replicas == 0 || p.replicas > replicas {
			replicas, metric = p.replicas, p.metric
		}
	}
	if first != nil && (failed == len(specs) || replicas < scale.Spec.Replicas) {
		a.condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, first.reason, "the HPA was unable to compute the replica count: %v", first.error)
		return 0, "", fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %s%w", failed, len(specs), first.context, first.error)
	}
	a.object.Status.CurrentMetrics = statuses
	a.condition(autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from %s", metric)
	return replicas, metric, nil
}

// selector returns the target's selector of pods.
func (a *autoscaling) selector(scale *autoscalingv1.Scale) (labels.Selector, error) {
	if scale.Status.Selector == "" {
		err := errors.New("selector is required")
		a.warn("SelectorRequired", err)
		a.condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, "InvalidSelector", "the HPA target's scale is missing a selector")
		return nil, err
	}
	selector, err := labels.Parse(scale.Status.Selector)
	if err != nil {
		err = fmt.Errorf("couldn't convert selector into a corresponding internal selector object: %w", err)
		a.warn("InvalidSelector", err)
		a.condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, "InvalidSelector", "%v", err)
		return nil, err
	}
	return selector, nil
}

// calculation gathers the target's pods. None of them may be another
// autoscaler's too: the two would fight.
func (a *autoscaling) calculation(ctx context.Context, scale *autoscalingv1.Scale, selector labels.Selector) (*calculation, error) {
	var list corev1.PodList
	err := a.Cache.List(ctx, &list, crclient.InNamespace(a.object.Namespace), crclient.MatchingLabelsSelector{Selector: selector}, crclient.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("unable to get pods while calculating replica count: %w", err)
	}
	c := &calculation{autoscaling: a, tolerance: a.tolerance(), current: scale.Spec.Replicas}
	for i := range list.Items {
		c.pods = append(c.pods, &list.Items[i])
	}
	if others := a.others(selector, c.pods); len(others) > 0 {
		err := fmt.Errorf("pods by selector %s are controlled by multiple HPAs: %v", selector, others)
		a.warn("AmbiguousSelector", err)
		a.condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, "AmbiguousSelector", "%v", err)
		return nil, err
	}
	return c, nil
}

// others notes which pods this autoscaler has, and returns the names of all
// that have some of them, if it is not the only one.
func (a *autoscaling) others(selector labels.Selector, list []*corev1.Pod) []types.NamespacedName {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.history.selector = selector
	var names []types.NamespacedName
	for key, h := range a.histories {
		if key.Namespace == a.object.Namespace && h != a.history && h.selector != nil &&
			slices.ContainsFunc(list, func(p *corev1.Pod) bool { return h.selector.Matches(labels.Set(p.Labels)) }) {
			names = append(names, key)
		}
	}
	if len(names) > 0 {
		names = append(names, controller.Key(a.object))
		slices.SortFunc(names, func(a, b types.NamespacedName) int { return strings.Compare(a.Name, b.Name) })
	}
	return names
}

// propose asks one metric.
func (c *calculation) propose(ctx context.Context, spec *autoscalingv2.MetricSpec, selector labels.Selector, have int32) (p proposal, failed *failure) {
	var err error
	reason, about := "", ""
	switch spec.Type {
	case autoscalingv2.ResourceMetricSourceType:
		reason, about = "FailedGetResourceMetric", fmt.Sprintf("failed to get %s resource metric value: ", spec.Resource.Name)
		p, err = c.resource(ctx, spec.Resource, selector)
	case autoscalingv2.ContainerResourceMetricSourceType:
		reason, about = "FailedGetContainerResourceMetric", fmt.Sprintf("failed to get %s container metric value: ", spec.ContainerResource.Container)
		p, err = c.containerResource(ctx, spec.ContainerResource, selector)
	case autoscalingv2.PodsMetricSourceType:
		reason, about = "FailedGetPodsMetric", "failed to get pods metric value: "
		p, err = c.podsMetric(spec.Pods, selector)
	case autoscalingv2.ObjectMetricSourceType:
		reason, about = "FailedGetObjectMetric", "failed to get object metric value: "
		if spec.Object.Target.AverageValue != nil {
			about += fmt.Sprintf("failed to get %s object metric: ", spec.Object.Metric.Name)
		}
		p, err = c.objectMetric(spec.Object, have)
	case autoscalingv2.ExternalMetricSourceType:
		reason, about = "FailedGetExternalMetric", fmt.Sprintf("failed to get %s external metric value: ", spec.External.Metric.Name)
		if spec.External.Target.AverageValue != nil {
			about += fmt.Sprintf("failed to get %s external metric: ", spec.External.Metric.Name)
		} else {
			about += fmt.Sprintf("failed to get external metric %s: ", spec.External.Metric.Name)
		}
		p, err = c.externalMetric(spec.External, have)
	default:
		reason, err = "InvalidMetricSourceType", fmt.Errorf("unknown metric source type %q", string(spec.Type))
	}
	if err != nil {
		c.warn(reason, err)
		return proposal{}, &failure{reason, about, err}
	}
	p.status.Type = spec.Type
	return p, nil
}

func milli(n int64) *resource.Quantity { return resource.NewMilliQuantity(n, resource.DecimalSI) }

func (c *calculation) resource(ctx context.Context, m *autoscalingv2.ResourceMetricSource, selector labels.Selector) (p proposal, err error) {
	current, description, err := c.usage(ctx, m.Name, "", m.Target, selector)
	if err != nil {
		return p, err
	}
	p.replicas, p.metric = current.replicas, fmt.Sprintf("%s resource%s", m.Name, description)
	p.status.Resource = &autoscalingv2.ResourceMetricStatus{Name: m.Name, Current: current.value}
	return p, nil
}

func (c *calculation) containerResource(ctx context.Context, m *autoscalingv2.ContainerResourceMetricSource, selector labels.Selector) (p proposal, err error) {
	current, description, err := c.usage(ctx, m.Name, m.Container, m.Target, selector)
	if err != nil {
		return p, err
	}
	p.replicas, p.metric = current.replicas, fmt.Sprintf("%s resource", m.Name)
	if description != "" {
		p.metric = fmt.Sprintf("%s container resource%s", m.Name, description)
	}
	p.status.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: m.Name, Container: m.Container, Current: current.value}
	return p, nil
}

type usage struct {
	replicas int32
	value    autoscalingv2.MetricValueStatus
}

// usage compares what pods, or one container of each, use with a target.
func (c *calculation) usage(ctx context.Context, name corev1.ResourceName, container string, target autoscalingv2.MetricTarget, selector labels.Selector) (u usage, description string, err error) {
	failed := "failed to get %s utilization: %w"
	switch {
	case target.AverageValue != nil:
		failed = "failed to get %s usage: %w"
	case target.AverageUtilization == nil:
		return u, "", errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
	if c.values, err = c.metrics.usage(ctx, name, c.object.Namespace, selector, container); err != nil {
		return u, "", fmt.Errorf(failed, name, fmt.Errorf("unable to get metrics for resource %s: %w", name, err))
	}
	if len(c.pods) == 0 {
		return u, "", fmt.Errorf(failed, name, errNoPods)
	}
	var now int64
	if target.AverageValue != nil {
		u.replicas, now, err = c.byAverage(name, target.AverageValue.MilliValue())
		u.value.AverageValue = milli(now)
	} else {
		var percent int32
		u.replicas, percent, now, err = c.byUtilization(name, container, *target.AverageUtilization)
		u.value.AverageUtilization, u.value.AverageValue = &percent, milli(now)
		description = " utilization (percentage of request)"
	}
	if err != nil {
		return u, "", fmt.Errorf(failed, name, err)
	}
	return u, description, nil
}

var errNoPods = errors.New("no pods returned by selector while calculating replica count")

func (c *calculation) podsMetric(m *autoscalingv2.PodsMetricSource, selector labels.Selector) (p proposal, err error) {
	if m.Target.AverageValue == nil {
		return p, errors.New("invalid pods metric source: no average value target was set")
	}
	of, err := metav1.LabelSelectorAsSelector(m.Metric.Selector)
	if err != nil {
		return p, err
	}
	if c.values, err = c.metrics.pods(m.Metric.Name, c.object.Namespace, selector, of); err != nil {
		return p, fmt.Errorf("unable to get metric %s: %w", m.Metric.Name, err)
	}
	if len(c.pods) == 0 {
		return p, errNoPods
	}
	var now int64
	if p.replicas, now, err = c.byAverage("", m.Target.AverageValue.MilliValue()); err != nil {
		return p, err
	}
	p.metric = "pods metric " + m.Metric.Name
	p.status.Pods = &autoscalingv2.PodsMetricStatus{Metric: m.Metric, Current: autoscalingv2.MetricValueStatus{AverageValue: milli(now)}}
	return p, nil
}

func (c *calculation) objectMetric(m *autoscalingv2.ObjectMetricSource, have int32) (p proposal, err error) {
	of, err := metav1.LabelSelectorAsSelector(m.Metric.Selector)
	if err != nil {
		return p, err
	}
	value, err := c.metrics.object(m.Metric.Name, c.object.Namespace, &m.DescribedObject, of)
	if err != nil {
		return p, fmt.Errorf("unable to get metric %s on %s %s/%s: %w", m.Metric.Name, m.DescribedObject.Kind, c.object.Namespace, m.DescribedObject.Name, err)
	}
	p.status.Object = &autoscalingv2.ObjectMetricStatus{DescribedObject: m.DescribedObject, Metric: m.Metric}
	p.metric = fmt.Sprintf("%s metric %s", m.DescribedObject.Kind, m.Metric.Name)
	if m.Target.AverageValue != nil {
		// Upstream calls it so.
		p.metric = fmt.Sprintf("external metric %s(%+v)", m.Metric.Name, m.Metric.Selector)
	}
	if p.replicas, p.status.Object.Current, err = c.whole(m.Target, value, have); err != nil {
		return p, err
	}
	return p, nil
}

func (c *calculation) externalMetric(m *autoscalingv2.ExternalMetricSource, have int32) (p proposal, err error) {
	of, err := metav1.LabelSelectorAsSelector(m.Metric.Selector)
	if err != nil {
		return p, err
	}
	value, err := c.metrics.external(m.Metric.Name, c.object.Namespace, of)
	if err != nil {
		return p, fmt.Errorf("unable to get external metric %s/%s/%+v: %w", c.object.Namespace, m.Metric.Name, m.Metric.Selector, err)
	}
	p.status.External = &autoscalingv2.ExternalMetricStatus{Metric: m.Metric}
	p.metric = fmt.Sprintf("external metric %s(%+v)", m.Metric.Name, m.Metric.Selector)
	if p.replicas, p.status.External.Current, err = c.whole(m.Target, value, have); err != nil {
		return p, err
	}
	return p, nil
}

// whole compares one value for the whole with a target for it, or for each pod.
func (c *calculation) whole(target autoscalingv2.MetricTarget, value int64, have int32) (int32, autoscalingv2.MetricValueStatus, error) {
	switch {
	case target.AverageValue != nil:
		replicas, each := c.byShare(value, target.AverageValue.MilliValue(), have)
		return replicas, autoscalingv2.MetricValueStatus{AverageValue: milli(each)}, nil
	case target.Value != nil:
		if c.current > 0 && len(c.pods) == 0 {
			return 0, autoscalingv2.MetricValueStatus{}, fmt.Errorf("unable to calculate ready pods: %w", errNoPods)
		}
		return c.byTotal(value, target.Value.MilliValue()), autoscalingv2.MetricValueStatus{Value: milli(value)}, nil
	}
	return 0, autoscalingv2.MetricValueStatus{}, errors.New("neither a value target nor an average value target was set")
}
