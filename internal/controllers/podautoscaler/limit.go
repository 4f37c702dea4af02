package podautoscaler

import (
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

// limit takes the size that the metrics ask for back to what the autoscaler
// allows: first what recent recommendations hold back, then how fast the size
// may change.
func (a *autoscaling) limit(current, wanted int32) int32 {
	behavior := a.object.Spec.Behavior
	stable, reason, message := wanted, "", ""
	if behavior == nil || wanted < current {
		window := a.DownscaleStabilization
		if behavior != nil && behavior.ScaleDown != nil && behavior.ScaleDown.StabilizationWindowSeconds != nil {
			window = seconds(*behavior.ScaleDown.StabilizationWindowSeconds)
		}
		stable = a.history.stabilized(wanted, window, maxOf)
		reason, message = "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation"
	} else {
		window := time.Duration(0)
		if behavior.ScaleUp != nil && behavior.ScaleUp.StabilizationWindowSeconds != nil {
			window = seconds(*behavior.ScaleUp.StabilizationWindowSeconds)
		}
		stable = a.history.stabilized(wanted, window, minOf)
		reason, message = "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"
	}
	a.history.recommend(wanted)
	if stable == wanted {
		reason, message = "ReadyForNewScale", "recommended size matches current size"
	}
	a.condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, reason, "%s", message)

	desired, reason, message := a.bounded(current, stable)
	status := corev1.ConditionTrue
	if desired == stable {
		status = corev1.ConditionFalse
	}
	a.condition(autoscalingv2.ScalingLimited, status, reason, "%s", message)
	return desired
}

// bounded takes a size into the bounds for now, and says which bound that was.
func (a *autoscaling) bounded(current, wanted int32) (desired int32, reason, message string) {
	least, most := a.minReplicas(), a.object.Spec.MaxReplicas
	tooFew := func() (int32, string, string) {
		return least, "TooFewReplicas", "the desired replica count is less than the minimum replica count"
	}
	up, down := a.rates(current)
	switch {
	case wanted > min(most, up) && up < most:
		return up, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"
	case wanted > most:
		return most, "TooManyReplicas", "the desired replica count is more than the maximum replica count"
	case wanted < down && down > least:
		return down, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"
	case wanted < least:
		return tooFew()
	}
	return wanted, "DesiredWithinRange", "the desired count is within the acceptable range"
}

// rates are the bounds that the speed of change sets. Without a behaviour the
// size may double, or become 4, at once, and shrink at any speed.
func (a *autoscaling) rates(current int32) (up, down int32) {
	behavior := a.object.Spec.Behavior
	up, down = max(2*current, 4), 0
	if behavior == nil {
		return up, down
	}
	if behavior.ScaleUp != nil {
		up = a.history.upLimit(current, behavior.ScaleUp)
	}
	if behavior.ScaleDown != nil {
		down = a.history.downLimit(current, behavior.ScaleDown)
	}
	return up, down
}

// tolerance is what deviation of the usage from its target is let be.
type tolerance struct{ up, down float64 }

func (a *autoscaling) tolerance() tolerance {
	t := tolerance{a.Tolerance, a.Tolerance}
	if b := a.object.Spec.Behavior; b != nil {
		if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
			t.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
		}
		if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
			t.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
		}
	}
	return t
}

// allows reports whether a ratio of usage to target is close enough to 1.
func (t tolerance) allows(ratio float64) bool { return 1-t.down <= ratio && ratio <= 1+t.up }
