package autoscaling

import (
	"fmt"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"

	"skiff/internal/apis/columns"
)

// maxShownMetrics is how many metrics a cell of the table shows.
const maxShownMetrics = 2

// metricsCell shows "current/target" of each metric.
func metricsCell(specs []autoscalingv2.MetricSpec, statuses []autoscalingv2.MetricStatus) string {
	if len(specs) == 0 {
		return columns.None
	}
	var shown []string
	for i := range specs {
		if i == maxShownMetrics {
			break
		}
		status := &autoscalingv2.MetricStatus{}
		if i < len(statuses) {
			status = &statuses[i]
		}
		shown = append(shown, metricCell(&specs[i], status))
	}
	cell := strings.Join(shown, ", ")
	if more := len(specs) - len(shown); more > 0 {
		cell += fmt.Sprintf(" + %d more...", more)
	}
	return cell
}

func metricCell(s *autoscalingv2.MetricSpec, status *autoscalingv2.MetricStatus) string {
	switch {
	case s.External != nil:
		var current *autoscalingv2.MetricValueStatus
		if status.External != nil {
			current = &status.External.Current
		}
		return valueCell(&s.External.Target, current)
	case s.Pods != nil:
		var current *autoscalingv2.MetricValueStatus
		if status.Pods != nil {
			current = &status.Pods.Current
		}
		return quantityCell(averageOf(current)) + "/" + quantityCell(s.Pods.Target.AverageValue)
	case s.Object != nil:
		var current *autoscalingv2.MetricValueStatus
		if status.Object != nil {
			current = &status.Object.Current
		}
		return valueCell(&s.Object.Target, current)
	case s.Resource != nil:
		var current *autoscalingv2.MetricValueStatus
		if status.Resource != nil {
			current = &status.Resource.Current
		}
		return fmt.Sprintf("%s: %s", s.Resource.Name, resourceCell(&s.Resource.Target, current))
	case s.ContainerResource != nil:
		var current *autoscalingv2.MetricValueStatus
		if status.ContainerResource != nil {
			current = &status.ContainerResource.Current
		}
		return fmt.Sprintf("%s: %s", s.ContainerResource.Name, resourceCell(&s.ContainerResource.Target, current))
	}
	return "<unknown type>"
}

// valueCell shows a metric that has one value for all pods, or an average.
func valueCell(target *autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return fmt.Sprintf("%s/%s (avg)", quantityCell(averageOf(current)), target.AverageValue)
	}
	var value *resource.Quantity
	if current != nil {
		value = current.Value
	}
	return quantityCell(value) + "/" + quantityCell(target.Value)
}

func resourceCell(target *autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return quantityCell(averageOf(current)) + "/" + target.AverageValue.String()
	}
	now, wanted := columns.Unknown, "<auto>"
	if current != nil && current.AverageUtilization != nil {
		now = fmt.Sprintf("%d%%", *current.AverageUtilization)
	}
	if target.AverageUtilization != nil {
		wanted = fmt.Sprintf("%d%%", *target.AverageUtilization)
	}
	return now + "/" + wanted
}

func averageOf(current *autoscalingv2.MetricValueStatus) *resource.Quantity {
	if current == nil {
		return nil
	}
	return current.AverageValue
}

func quantityCell(q *resource.Quantity) string {
	if q == nil {
		return columns.Unknown
	}
	return q.String()
}
