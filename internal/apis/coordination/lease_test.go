package coordination

import (
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

func TestLease(t *testing.T) {
	change := checkstest.Change[*coordinationv1.Lease]
	r := checkstest.Find(t, Resources(), "leases")
	valid := checkstest.Parse[*coordinationv1.Lease](t, r, "metadata: {name: node-1, namespace: kube-node-lease}\nspec: {holderIdentity: node-1, leaseDurationSeconds: 40}")
	checkstest.Create(t, r, valid,
		change("duration", func(l *coordinationv1.Lease) { l.Spec.LeaseDurationSeconds = ptr.To[int32](0) },
			"spec.leaseDurationSeconds: Invalid value: must be greater than 0"),
		change("transitions", func(l *coordinationv1.Lease) { l.Spec.LeaseTransitions = ptr.To[int32](-1) },
			"spec.leaseTransitions: Invalid value: must be greater than or equal to 0"),
		change("preferred", func(l *coordinationv1.Lease) { l.Spec.PreferredHolder = ptr.To("me") },
			"spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined"),
	)
	valid.Spec.Strategy = ptr.To(coordinationv1.OldestEmulationVersion)
	r.PrepareCreate(t.Context(), valid)
	if valid.Spec.Strategy != nil {
		t.Error("a strategy was stored, which v1.36 does not serve by default")
	}
	if got := r.Cells(valid)[1]; got != "node-1" {
		t.Errorf("holder shown as %v", got)
	}
}
