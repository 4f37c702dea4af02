// Package columns makes the Table form of resources: column definitions, and
// the text of the cells that many resources share.
package columns

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"
)

// None and Unknown stand in cells that have no value, or none that is known.
const (
	None    = "<none>"
	Unknown = "<unknown>"
)

// Name returns the column that every table begins with.
func Name() metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}
}

// AgeColumn returns the column that Age makes the cells of.
func AgeColumn() metav1.TableColumnDefinition {
	return String("Age", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"])
}

// String returns a column of text.
func String(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Description: description}
}

// Integer returns a column of numbers: its cells are int64.
func Integer(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "integer", Description: description}
}

// Boolean returns a column of bool cells.
func Boolean(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "boolean", Description: description}
}

// Wide returns the column as one that is only shown in wide output.
func Wide(c metav1.TableColumnDefinition) metav1.TableColumnDefinition {
	c.Priority = 1
	return c
}

// Age returns how long ago t was, as in "5m" or "3d4h".
func Age(t metav1.Time) string {
	if t.IsZero() {
		return Unknown
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// MicroAge is Age for times of microsecond precision.
func MicroAge(t metav1.MicroTime) string { return Age(metav1.Time(t)) }

// Labels returns "a=b,c=d" in order of keys, or "<none>".
func Labels(l map[string]string) string { return labels.FormatLabels(l) }

// Selector returns s in the form of a command line, "<none>" if it is empty
// and "<error>" if it is invalid.
func Selector(s *metav1.LabelSelector) string { return metav1.FormatLabelSelector(s) }

// Containers returns the names and the images of containers, each joined by
// commas.
func Containers(containers []corev1.Container) (names, images string) {
	n, i := make([]string, len(containers)), make([]string, len(containers))
	for k := range containers {
		n[k], i[k] = containers[k].Name, containers[k].Image
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}
