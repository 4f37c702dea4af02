package scheduling

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
)

func priorityClass() *apis.Resource {
	docs := schedulingv1.PriorityClass{}.SwaggerDoc()
	return apis.Of[*schedulingv1.PriorityClass]{
		Names: apis.Names{
			Group: "scheduling.k8s.io", Resource: "priorityclasses", Singular: "priorityclass", Kind: "PriorityClass",
			ShortNames: []string{"pc"},
		},
		Version: "v1",
		New:     func() *schedulingv1.PriorityClass { return &schedulingv1.PriorityClass{} },
		NewList: func() runtime.Object { return &schedulingv1.PriorityClassList{} },
		Default: func(c *schedulingv1.PriorityClass) { fill.Pointer(&c.PreemptionPolicy, corev1.PreemptLowerPriority) },
		// It is not counted: nothing but metadata and descriptions can change.
		PrepareCreate: func(_ context.Context, c *schedulingv1.PriorityClass) { c.Generation = 1 },
		Validate:      validatePriorityClass,
		ValidateUpdate: func(_ context.Context, c, old *schedulingv1.PriorityClass) field.ErrorList {
			var errs field.ErrorList
			if c.Value != old.Value {
				errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
			}
			return append(errs, validation.ValidateImmutableField(c.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
		},
		Permanent: func(c *schedulingv1.PriorityClass) string {
			if systemClasses[c.Name] {
				return "this is a system priority class and cannot be deleted"
			}
			return ""
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.Integer("Value", docs["value"]),
			columns.Boolean("Global-Default", docs["globalDefault"]),
			columns.AgeColumn(),
			columns.String("PreemptionPolicy", docs["preemptionPolicy"]),
		},
		Cells: func(c *schedulingv1.PriorityClass) []any {
			return []any{
				c.Name, int64(c.Value), c.GlobalDefault, columns.Age(c.CreationTimestamp),
				string(ptr.Deref(c.PreemptionPolicy, corev1.PreemptLowerPriority)),
			}
		},
	}.Resource()
}

// systemClasses are what every cluster has.
var systemClasses = map[string]bool{"system-node-critical": true, "system-cluster-critical": true}

// highestUserPriority is the highest that is not kept for the system.
const highestUserPriority = 1_000_000_000

// SystemClasses returns the classes that every cluster has, and that alone may
// have a name with the prefix "system-" and a value above those of users.
func SystemClasses() []*schedulingv1.PriorityClass {
	class := func(name string, value int32, description string) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, Description: description,
			PreemptionPolicy: ptr.To(corev1.PreemptLowerPriority),
		}
	}
	return []*schedulingv1.PriorityClass{
		class("system-node-critical", 2*highestUserPriority+1000, "Used for system critical pods that must not be moved from their current node."),
		class("system-cluster-critical", 2*highestUserPriority, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
	}
}

func validatePriorityClass(_ context.Context, c *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if strings.HasPrefix(c.Name, "system-") {
		if problem := systemClassProblem(c); problem != "" {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"), "priority class names with 'system-' prefix are reserved for system use only. error: "+problem))
		}
	} else if c.Value > highestUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", highestUserPriority)))
	}
	if c.PreemptionPolicy != nil {
		errs = append(errs, checks.Enum(*c.PreemptionPolicy, field.NewPath("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	return errs
}

// systemClassProblem says how c differs from the system class of its name.
func systemClassProblem(c *schedulingv1.PriorityClass) string {
	for _, known := range SystemClasses() {
		switch {
		case known.Name != c.Name:
			continue
		case known.Value != c.Value:
			return fmt.Sprintf("value of %v PriorityClass must be %v", c.Name, known.Value)
		case known.GlobalDefault != c.GlobalDefault:
			return fmt.Sprintf("globalDefault of %v PriorityClass must be %v", c.Name, known.GlobalDefault)
		}
		return ""
	}
	return c.Name + " is not a known system priority class"
}
