package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"skiff/internal/apis/checks/checkstest"
)

func TestRuntimeClass(t *testing.T) {
	change := checkstest.Change[*nodev1.RuntimeClass]
	r := checkstest.Find(t, Resources(), "runtimeclasses")
	valid := checkstest.Parse[*nodev1.RuntimeClass](t, r, "metadata: {name: sandboxed}\nhandler: runsc\noverhead: {podFixed: {cpu: 10m}}")
	checkstest.Create(t, r, valid,
		change("handler", func(c *nodev1.RuntimeClass) { c.Handler = "a.b" }, "handler: Invalid value: must not contain dots"),
		change("overhead", func(c *nodev1.RuntimeClass) {
			c.Overhead.PodFixed = corev1.ResourceList{"cpu": resource.MustParse("-1"), "gold": resource.MustParse("1")}
		}, "overhead.limits[cpu]: Invalid value: must be greater than or equal to 0",
			"overhead.limits[gold]: Invalid value: must be a standard resource type or fully qualified",
			"overhead.limits[gold]: Invalid value: must be a standard resource for containers"),
		change("tolerations", func(c *nodev1.RuntimeClass) {
			c.Scheduling = &nodev1.Scheduling{Tolerations: []corev1.Toleration{{Key: "a"}, {Key: "a"}, {Key: "a", Operator: "Like"}}}
		}, "scheduling.tolerations[1]: Duplicate value: ", `scheduling.tolerations[2].operator: Unsupported value: supported values: "Equal", "Exists"`),
		change("selector", func(c *nodev1.RuntimeClass) {
			c.Scheduling = &nodev1.Scheduling{NodeSelector: map[string]string{"a/b/c": ""}}
		}, "scheduling.nodeSelector: Invalid value: a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"),
	)
	old := valid.DeepCopy()
	old.Scheduling = &nodev1.Scheduling{NodeSelector: map[string]string{"beta.kubernetes.io/os": "linux"}}
	if got := r.Warnings(t.Context(), old, nil); len(got) != 1 || got[0] != `scheduling.nodeSelector: deprecated since v1.14; use "kubernetes.io/os" instead` {
		t.Errorf("warned of %q", got)
	}
	if got := r.Cells(valid)[1]; got != "runsc" {
		t.Errorf("handler shown as %v", got)
	}
	checkstest.Update(t, r, valid,
		change("handler", func(c *nodev1.RuntimeClass) { c.Handler = "kata" }, "handler: Invalid value: field is immutable"),
		change("overhead", func(c *nodev1.RuntimeClass) { c.Overhead.PodFixed["cpu"] = resource.MustParse("-1") },
			"overhead.limits[cpu]: Invalid value: must be greater than or equal to 0"),
	)
}
