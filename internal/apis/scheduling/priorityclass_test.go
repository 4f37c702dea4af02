package scheduling

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

func TestPriorityClass(t *testing.T) {
	type class = schedulingv1.PriorityClass
	change := checkstest.Change[*class]
	r := checkstest.Find(t, Resources(), "priorityclasses")
	valid := checkstest.Parse[*class](t, r, "metadata: {name: high}\nvalue: 1000000000")
	checkstest.Create(t, r, valid,
		change("too high", func(c *class) { c.Value++ }, "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"),
		change("reserved", func(c *class) { c.Name = "system-mine" },
			"metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class"),
		change("system", func(c *class) { *c = *SystemClasses()[0] }),
		change("system value", func(c *class) { c.Name = "system-node-critical" },
			"metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: value of system-node-critical PriorityClass must be 2000001000"),
	)
	checkstest.Create(t, r, valid,
		change("policy", func(c *class) { c.PreemptionPolicy = ptr.To(corev1.PreemptionPolicy("Perhaps")) },
			`preemptionPolicy: Unsupported value: supported values: "PreemptLowerPriority", "Never"`),
		change("system default", func(c *class) { *c = *SystemClasses()[1]; c.GlobalDefault = true },
			"metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: globalDefault of system-cluster-critical PriorityClass must be false"),
	)
	if r.PrepareCreate(t.Context(), valid); valid.Generation != 1 {
		t.Errorf("generation %d", valid.Generation)
	}
	if got := r.Cells(valid); got[1] != int64(1000000000) || got[2] != false || got[4] != "PreemptLowerPriority" {
		t.Errorf("shown as %v", got)
	}
	checkstest.Update(t, r, valid,
		change("policy", func(c *class) { c.PreemptionPolicy = ptr.To(corev1.PreemptNever) }, "preemptionPolicy: Invalid value: field is immutable"),
		change("value", func(c *class) { c.Value = 5 }, "value: Forbidden: may not be changed in an update."),
		change("global", func(c *class) { c.GlobalDefault = true }),
	)
}
