package podautoscaler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"skiff/internal/controllers/controller"
)

var t0 = time.Unix(1e9, 0)

func newAutoscaling(min, max int32, b *autoscalingv2.HorizontalPodAutoscalerBehavior) (*autoscaling, *clocktesting.FakeClock) {
	clock := clocktesting.NewFakeClock(t0)
	r := &reconciler{Deps: controller.Deps{Clock: clock}}
	r.setDefaults()
	return &autoscaling{
		reconciler: r, history: &history{clock: clock},
		object: &autoscalingv2.HorizontalPodAutoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: &min, MaxReplicas: max, Behavior: b}},
	}, clock
}

func (a *autoscaling) reasonOf(kind autoscalingv2.HorizontalPodAutoscalerConditionType) string {
	for _, c := range a.object.Status.Conditions {
		if c.Type == kind {
			return c.Reason
		}
	}
	return ""
}

// TestLimits plays sequences of recommendations: "after 15s: 4 want 10 get 8"
// means that 15 s later, with 4 replicas, 10 are wanted and 8 allowed.
func TestLimits(t *testing.T) {
	rules := func(window int32, choose autoscalingv2.ScalingPolicySelect, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
		return &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window, SelectPolicy: &choose, Policies: policies}
	}
	const pods, percent = autoscalingv2.PodsScalingPolicy, autoscalingv2.PercentScalingPolicy
	policy := func(kind autoscalingv2.HPAScalingPolicyType, value, period int32) autoscalingv2.HPAScalingPolicy {
		return autoscalingv2.HPAScalingPolicy{Type: kind, Value: value, PeriodSeconds: period}
	}
	free := rules(0, autoscalingv2.MaxChangePolicySelect, policy(percent, 1000, 15))
	for _, tt := range []struct {
		name     string
		behavior *autoscalingv2.HorizontalPodAutoscalerBehavior
		steps    string
	}{
		{"doubles at most, at least to four", nil, `
			after 0s: 1 want 10 get 4 ScaleUpLimit
			after 15s: 4 want 10 get 8 ScaleUpLimit
			after 15s: 8 want 30 get 16 ScaleUpLimit
			after 15s: 16 want 30 get 20 TooManyReplicas`},
		{"shrinks when no recent recommendation is larger", nil, `
			after 0s: 8 want 8 get 8 DesiredWithinRange
			after 240s: 8 want 2 get 8 DesiredWithinRange
			after 61s: 8 want 2 get 2 DesiredWithinRange
			after 301s: 2 want 0 get 1 TooFewReplicas`},
		{"pods in a period", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rules(0, autoscalingv2.MaxChangePolicySelect, policy(pods, 4, 60)), ScaleDown: free}, `
			after 0s: 2 want 12 get 6 ScaleUpLimit
			after 15s: 6 want 12 get 6 ScaleUpLimit
			after 45s: 6 want 12 get 10 ScaleUpLimit`},
		{"the smaller of two", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rules(0, autoscalingv2.MinChangePolicySelect, policy(pods, 4, 60), policy(percent, 10, 60)), ScaleDown: free}, `
			after 0s: 10 want 19 get 11 ScaleUpLimit`},
		{"the larger of two", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rules(0, autoscalingv2.MaxChangePolicySelect, policy(pods, 4, 60), policy(percent, 10, 60)), ScaleDown: free}, `
			after 0s: 10 want 19 get 14 ScaleUpLimit`},
		{"down by percent", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: free, ScaleDown: rules(0, autoscalingv2.MaxChangePolicySelect, policy(percent, 50, 60))}, `
			after 0s: 16 want 1 get 8 ScaleDownLimit
			after 30s: 8 want 1 get 8 ScaleDownLimit
			after 30s: 8 want 1 get 4 ScaleDownLimit`},
		{"down is disabled", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: free, ScaleDown: rules(0, autoscalingv2.DisabledPolicySelect)}, `
			after 0s: 16 want 1 get 16 ScaleDownLimit`},
		{"up waits for its window", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rules(60, autoscalingv2.MaxChangePolicySelect, policy(percent, 1000, 15)), ScaleDown: free}, `
			after 0s: 2 want 2 get 2 DesiredWithinRange
			after 15s: 2 want 10 get 2 DesiredWithinRange
			after 46s: 2 want 12 get 10 DesiredWithinRange`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, clock := newAutoscaling(1, 20, tt.behavior)
			for step := range strings.Lines(strings.TrimSpace(tt.steps)) {
				var pause, reason string
				var current, want, get int32
				if _, err := fmt.Sscanf(strings.TrimSpace(step), "after %s %d want %d get %d %s", &pause, &current, &want, &get, &reason); err != nil {
					t.Fatalf("%q: %v", step, err)
				}
				d, err := time.ParseDuration(strings.TrimSuffix(pause, ":"))
				if err != nil {
					t.Fatal(err)
				}
				clock.Step(d)
				got := a.limit(current, want)
				if got != get || a.reasonOf(autoscalingv2.ScalingLimited) != reason {
					t.Errorf("%s: got %d, %s", strings.TrimSpace(step), got, a.reasonOf(autoscalingv2.ScalingLimited))
				}
				if got != current {
					a.history.changed(current, got)
				}
			}
		})
	}
}

// pod makes a pod that asks for one CPU; kind says how it is.
func pod(name, kind string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")},
		}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &metav1.Time{Time: t0.Add(-time.Hour)}},
	}
	ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(t0.Add(-time.Hour + time.Minute))}
	switch kind {
	case "pending":
		p.Status.Phase = corev1.PodPending
	case "failed":
		p.Status.Phase = corev1.PodFailed
	case "deleted":
		p.DeletionTimestamp = &metav1.Time{Time: t0}
	case "young": // ready for less than a window
		p.Status.StartTime = &metav1.Time{Time: t0.Add(-time.Minute)}
		ready.LastTransitionTime = metav1.NewTime(t0.Add(-10 * time.Second))
	case "never ready":
		ready.Status, ready.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(t0.Add(-time.Hour))
	case "unready": // it was ready once
		ready.Status = corev1.ConditionFalse
	}
	p.Status.Conditions = []corev1.PodCondition{ready}
	return p
}

func TestUtilization(t *testing.T) {
	for _, tt := range []struct {
		name     string
		pods     string // kind=usage in percent, or kind for pods without a value
		target   int32
		replicas int32
		percent  int32
	}{
		{"up", "ok=90 ok=90", 50, 4, 90},
		{"down", "ok=10 ok=10 ok=10 ok=10", 50, 1, 10},
		{"within tolerance", "ok=54 ok=54", 50, 2, 54},
		{"just outside", "ok=56 ok=56", 50, 3, 56},
		{"a missing pod uses nothing on the way up", "ok=90 ok=90 ok", 50, 4, 90},
		{"a missing pod holds back altogether", "ok=60 ok=60 ok", 50, 3, 60},
		{"a missing pod uses all on the way down", "ok=10 ok=10 ok=10 ok", 50, 3, 10},
		{"a pending pod uses nothing on the way up", "ok=90 ok=90 pending", 50, 4, 90},
		{"a pending pod does not matter on the way down", "ok=10 ok=10 pending", 50, 1, 10},
		{"young usage is not trusted", "ok=90 ok=90 young=100", 50, 4, 90},
		{"never ready", "ok=90 ok=90 never_ready=400", 50, 4, 90},
		{"was ready", "ok=90 unready=90", 50, 4, 90},
		{"failed and deleted pods are not there", "ok=50 failed=400 deleted=400", 50, 3, 50},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, _ := newAutoscaling(1, 100, nil)
			c := &calculation{autoscaling: a, tolerance: a.tolerance(), values: measurements{}}
			for i, word := range strings.Fields(tt.pods) {
				kind, usage, known := strings.Cut(word, "=")
				p := pod(fmt.Sprint("p", i), strings.ReplaceAll(kind, "_", " "))
				c.pods = append(c.pods, p)
				if known {
					var n int64
					if _, err := fmt.Sscan(usage, &n); err != nil {
						t.Fatal(err)
					}
					c.values[p.Name] = measured{value: n * 10, at: t0, window: 30 * time.Second}
				}
			}
			c.current = int32(len(c.pods))
			replicas, percent, _, err := c.byUtilization(corev1.ResourceCPU, "", tt.target)
			if err != nil || replicas != tt.replicas || percent != tt.percent {
				t.Errorf("%d replicas at %d %%, want %d at %d %%: %v", replicas, percent, tt.replicas, tt.percent, err)
			}
		})
	}
}

func TestWhole(t *testing.T) {
	a, _ := newAutoscaling(0, 100, nil)
	c := &calculation{autoscaling: a, tolerance: a.tolerance(), current: 3, pods: []*corev1.Pod{pod("a", ""), pod("b", ""), pod("c", "unready")}}
	if n := c.byTotal(40_000, 10_000); n != 8 {
		t.Errorf("four times the target with two ready pods: %d", n)
	}
	if n := c.byTotal(10_500, 10_000); n != 3 {
		t.Errorf("near the target: %d", n)
	}
	c.current = 0
	if n := c.byTotal(25_000, 10_000); n != 3 {
		t.Errorf("from nothing: %d", n)
	}
	if n, each := c.byShare(35_000, 10_000, 2); n != 4 || each != 17_500 {
		t.Errorf("35 for two pods of 10 each: %d, %d each", n, each)
	}
	if n, each := c.byShare(35_000, 10_000, 0); n != 4 || each != 0 {
		t.Errorf("35 for no pods: %d, %d each", n, each)
	}
}

func TestToleranceOfItsOwn(t *testing.T) {
	half := resource.MustParse("0.5")
	a, _ := newAutoscaling(1, 10, &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{Tolerance: &half}})
	tol := a.tolerance()
	if !tol.allows(1.49) || tol.allows(1.51) || tol.allows(0.89) || !tol.allows(0.91) {
		t.Errorf("tolerance %+v", tol)
	}
	zero := resource.MustParse("0")
	a.object.Spec.Behavior.ScaleUp.Tolerance = ptr.To(zero)
	if a.tolerance().allows(1.01) {
		t.Error("no tolerance is none")
	}
}
