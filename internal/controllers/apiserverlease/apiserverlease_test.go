package apiserverlease_test

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/apiserverlease"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/identity"
)

// TestLeases demands that a server tells that it is there, and that the leases
// of those that are no longer there go, and no others.
func TestLeases(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Now())
	c := controllertest.StartAt(t, clk)
	ofServers := client.MatchingLabels{"apiserver.kubernetes.io/identity": "kube-apiserver"}
	leases := func() map[string]*coordinationv1.Lease {
		var list coordinationv1.LeaseList
		c.List(&list, client.InNamespace("kube-system"))
		byName := map[string]*coordinationv1.Lease{}
		for i := range list.Items {
			byName[list.Items[i].Name] = &list.Items[i]
		}
		return byName
	}
	// The name is the hash of the test server's host name.
	const own = "apiserver-t6dnbamijr6wlgrp5kqmkwwqcu"
	c.Eventually("the server's lease", &coordinationv1.LeaseList{}, func() bool { return leases()[own] != nil })
	lease := leases()[own]
	if lease.Labels["kubernetes.io/hostname"] != "test" || *lease.Spec.LeaseDurationSeconds != 3600 || lease.Labels["apiserver.kubernetes.io/identity"] != "kube-apiserver" {
		t.Errorf("the lease is %+v", lease)
	}

	past := metav1.NewMicroTime(clk.Now().Add(-2 * time.Hour))
	spec := coordinationv1.LeaseSpec{HolderIdentity: ptr.To("x"), LeaseDurationSeconds: ptr.To[int32](3600), RenewTime: &past}
	c.Create(
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "apiserver-gone", Labels: ofServers}, Spec: spec},
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "of-others"}, Spec: spec})
	c.RunOver(c.Set(identity.Loopback()), "apiserver", apiserverlease.New)
	c.Eventually("the lease of a server that is gone", &coordinationv1.LeaseList{}, func() bool { return leases()["apiserver-gone"] == nil })
	if now := leases(); now[own] == nil || now["of-others"] == nil {
		t.Errorf("what is left: %v", now)
	}
}
