package node

import (
	"testing"

	nodev1 "k8s.io/api/node/v1"

	"skiff/internal/apis/checks/checkstest"
)

func TestRuntimeClass(t *testing.T) {
	change := checkstest.Change[*nodev1.RuntimeClass]
	r := checkstest.Find(t, Resources(), "runtimeclasses")
	valid := checkstest.Parse[*nodev1.RuntimeClass](t, r, "metadata: {name: sandboxed}\nhandler: runsc\noverhead: {podFixed: {cpu: 10m}}")
	checkstest.Create(t, r, valid,
		change("handler", func(c *nodev1.RuntimeClass) { c.Handler = "a.b" }, "handler: Invalid value: must not contain dots"),
	)
	checkstest.Update(t, r, valid,
		change("handler", func(c *nodev1.RuntimeClass) { c.Handler = "kata" }, "handler: Invalid value: field is immutable"),
	)
}
