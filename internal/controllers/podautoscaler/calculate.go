package podautoscaler

import (
	"errors"
	"fmt"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"skiff/internal/controllers/pods"
)

func ceil(f float64) int32 {
	return int32(min(math.Ceil(f), math.MaxInt32))
}

// measured is the value of a metric, in thousandths, for one pod.
type measured struct {
	value  int64
	at     time.Time
	window time.Duration
}

// measurements are the values of a metric by pod.
type measurements map[string]measured

// calculation finds the size at which the pods' average would meet its target.
type calculation struct {
	*autoscaling
	tolerance tolerance
	current   int32
	pods      []*corev1.Pod
	values    measurements
}

// replicas returns that size. ratio is that of the usage to the target over
// the given values; full what a pod is taken to use of which nothing is known
// when that would make the target smaller.
//
// Pods whose values are missing, or not to be trusted yet, must not make the
// size change in a direction in which it would not without them.
func (c *calculation) replicas(resource corev1.ResourceName, ratio func(measurements) (float64, error), full func(pod string) int64) (int32, error) {
	ready, unready, missing := c.group(resource)
	if len(c.values) == 0 {
		return 0, errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	usage, err := ratio(c.values)
	if err != nil {
		return 0, err
	}
	withUnready := len(unready) > 0 && usage > 1
	if !withUnready && len(missing) == 0 {
		if c.tolerance.allows(usage) {
			return c.current, nil
		}
		return ceil(usage * float64(ready)), nil
	}
	for _, pod := range missing {
		switch {
		case usage < 1:
			c.values[pod] = measured{value: full(pod)}
		case usage > 1:
			c.values[pod] = measured{}
		}
	}
	if withUnready {
		for _, pod := range unready {
			c.values[pod] = measured{}
		}
	}
	again, err := ratio(c.values)
	if err != nil {
		return 0, err
	}
	if c.tolerance.allows(again) || usage < 1 && again > 1 || usage > 1 && again < 1 {
		return c.current, nil
	}
	n := ceil(again * float64(len(c.values)))
	if again < 1 && n > c.current || again > 1 && n < c.current {
		return c.current, nil
	}
	return n, nil
}

// group sorts the pods by what is known of them, and takes out of the values
// those that do not count.
func (c *calculation) group(resource corev1.ResourceName) (ready int, unready, missing []string) {
	for _, p := range c.pods {
		value, known := c.values[p.Name]
		switch {
		case p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed:
			delete(c.values, p.Name)
		case p.Status.Phase == corev1.PodPending:
			unready = append(unready, p.Name)
		case !known:
			missing = append(missing, p.Name)
		case resource == corev1.ResourceCPU && !c.trusted(p, value):
			unready = append(unready, p.Name)
		default:
			ready++
		}
	}
	for _, name := range unready {
		delete(c.values, name)
	}
	return ready, unready, missing
}

// trusted reports whether the CPU usage of a pod tells something: what it used
// to start with does not.
func (c *calculation) trusted(p *corev1.Pod, value measured) bool {
	readiness := pods.Condition(p, corev1.PodReady)
	if readiness == nil || p.Status.StartTime == nil {
		return false
	}
	started := p.Status.StartTime.Time
	changed := readiness.LastTransitionTime.Time
	if started.Add(c.CPUInitialization).After(c.Clock.Now()) {
		return readiness.Status != corev1.ConditionFalse && !value.at.Before(changed.Add(value.window))
	}
	return readiness.Status != corev1.ConditionFalse || !started.Add(c.InitialReadiness).After(changed)
}

// average returns the mean of the values.
func average(values measurements) int64 {
	sum := int64(0)
	for _, v := range values {
		sum += v.value
	}
	return sum / int64(max(len(values), 1))
}

// byAverage compares the pods' average with a target.
func (c *calculation) byAverage(resource corev1.ResourceName, target int64) (replicas int32, now int64, err error) {
	first := true
	replicas, err = c.replicas(resource, func(values measurements) (float64, error) {
		mean := average(values)
		if first {
			now, first = mean, false
		}
		return float64(mean) / float64(target), nil
	}, func(string) int64 { return target })
	return replicas, now, err
}

// byUtilization compares the share of what the pods ask for that they use with
// a target in percent. container narrows the requests to one container.
func (c *calculation) byUtilization(resource corev1.ResourceName, container string, target int32) (replicas, percent int32, now int64, err error) {
	requests, err := requestsOf(c.pods, resource, container)
	if err != nil {
		return 0, 0, 0, err
	}
	first := true
	replicas, err = c.replicas(resource, func(values measurements) (float64, error) {
		used, asked, n := int64(0), int64(0), int64(0)
		for pod, v := range values {
			if request, ok := requests[pod]; ok {
				used, asked, n = used+v.value, asked+request, n+1
			}
		}
		if asked == 0 {
			return 0, errors.New("no metrics returned matched known pods")
		}
		share := int32(used * 100 / asked)
		if first {
			percent, now, first = share, used/n, false
		}
		return float64(share) / float64(target), nil
	}, func(pod string) int64 { return requests[pod] * int64(max(100, target)) / 100 })
	return replicas, percent, now, err
}

// requestsOf returns what the pods, or one container of each, ask for, in
// thousandths.
func requestsOf(list []*corev1.Pod, resource corev1.ResourceName, container string) (map[string]int64, error) {
	requests := make(map[string]int64, len(list))
	for _, p := range list {
		if container == "" && resourcehelper.IsPodLevelRequestsSet(p) {
			if q, ok := p.Spec.Resources.Requests[resource]; ok {
				requests[p.Name] = q.MilliValue()
				continue
			}
		}
		containers := p.Spec.Containers
		for i := range p.Spec.InitContainers {
			if restart := p.Spec.InitContainers[i].RestartPolicy; restart != nil && *restart == corev1.ContainerRestartPolicyAlways {
				containers = append(containers[:len(containers):len(containers)], p.Spec.InitContainers[i])
			}
		}
		sum := int64(0)
		for i := range containers {
			if container != "" && containers[i].Name != container {
				continue
			}
			q, ok := containers[i].Resources.Requests[resource]
			if !ok {
				return nil, fmt.Errorf("missing request for %s in container %s of Pod %s", resource, containers[i].Name, p.Name)
			}
			sum += q.MilliValue()
		}
		requests[p.Name] = sum
	}
	return requests, nil
}

// byTotal compares one value for the whole with a target: the size is that of
// the ready pods times the ratio.
func (c *calculation) byTotal(value, target int64) int32 {
	ratio := float64(value) / float64(target)
	if c.current == 0 {
		return ceil(ratio)
	}
	if c.tolerance.allows(ratio) {
		return c.current
	}
	ready := 0
	for _, p := range c.pods {
		if p.Status.Phase == corev1.PodRunning && pods.Ready(p) {
			ready++
		}
	}
	return ceil(ratio * float64(ready))
}

// byShare compares one value for the whole, divided among the pods there are,
// with a target for each.
func (c *calculation) byShare(value, target int64, have int32) (replicas int32, each int64) {
	replicas = have
	if ratio := float64(value) / (float64(target) * float64(have)); have == 0 || !c.tolerance.allows(ratio) {
		replicas = ceil(float64(value) / float64(target))
	}
	if have > 0 {
		each = int64(math.Ceil(float64(value) / float64(have)))
	}
	return replicas, each
}
