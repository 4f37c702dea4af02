package coordination

import (
	"testing"

	coordinationv1beta1 "k8s.io/api/coordination/v1beta1"

	"skiff/internal/apis/checks/checkstest"
)

// TestLeaseCandidate has upstream's answers.
func TestLeaseCandidate(t *testing.T) {
	type candidate = coordinationv1beta1.LeaseCandidate
	change := checkstest.Change[*candidate]
	r := checkstest.Find(t, Resources(), "leasecandidates")
	valid := checkstest.Parse[*candidate](t, r, "metadata: {name: a_B, namespace: x}\nspec: {leaseName: l, binaryVersion: 1.36.0, emulationVersion: 1.35.0, strategy: OldestEmulationVersion}")
	versions := func(binary, emulation string) func(*candidate) {
		return func(c *candidate) { c.Spec.BinaryVersion, c.Spec.EmulationVersion = binary, emulation }
	}
	checkstest.Create(t, r, valid,
		change("lease", func(c *candidate) { c.Spec.LeaseName = "" }, "spec.leaseName: Required value: "),
		change("no version", versions("", "1.35.0"), "spec.binaryVersion: Required value: "),
		change("half a version", versions("1.36", "1.35.0"),
			"spec.binaryVersion: Invalid value: must be a valid semantic version", "spec.binaryVersion: Invalid value: must be greater than or equal to `emulationVersion`"),
		change("emulating the future", versions("1.36.0", "1.37.0"), "spec.binaryVersion: Invalid value: must be greater than or equal to `emulationVersion`"),
		change("emulating nothing", versions("1.36.0", ""), "spec.emulationVersion: Required value: must be specified when `strategy` is 'OldestEmulationVersion'"),
		change("no strategy", func(c *candidate) { c.Spec.Strategy = "" }, "spec.strategy: Required value: "),
		change("unknown strategy", func(c *candidate) { c.Spec.Strategy = "Foo" }, `spec.strategy.strategy: Unsupported value: supported values: "OldestEmulationVersion"`),
		change("somebody's strategy", func(c *candidate) { c.Spec.Strategy = "a.b/Foo" }),
		change("no name of a strategy", func(c *candidate) { c.Spec.Strategy = "a.b/Foo_" },
			"spec.strategy.strategy: Invalid value: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"),
	)
	moved := valid.DeepCopy()
	moved.Spec.LeaseName = "m"
	if errs := r.ValidateUpdate(t.Context(), moved, valid); len(errs) != 1 || errs[0].Field != "spec.leaseName" {
		t.Errorf("a candidate moved to another lease: %v", errs)
	}
}
