package service_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cloud/cloudtest"
	"skiff/internal/cloud/service"
	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

// TestHostsAreUpdated: of a cloud's load balancer only the hosts are updated
// when nodes change; it is ensured when the Service does.
func TestHostsAreUpdated(t *testing.T) {
	c := testcluster.Start(t)
	cloud := cloudtest.New()
	l := &lab{T: t, Set: c.Set(identity.Loopback())}
	testcluster.Run(t, service.New(service.Config{Client: l.Set, Log: slog.New(slog.DiscardHandler), Balancer: cloud}).Start)

	called := func(what string, calls ...string) {
		t.Helper()
		c.Wait(t, what, &corev1.EventList{}, func() bool { return slices.Equal(cloud.Calls(), calls) })
	}
	want := []string{"ensure default/web []"}
	svc := l.service("web", 80)
	l.event(svc, "There are no available nodes for LoadBalancer")
	l.event(svc, "Ensured load balancer")
	called("it is made", want...)
	l.ingress(svc, "203.0.113.7")
	if !slices.Contains(svc.Finalizers, "service.kubernetes.io/load-balancer-cleanup") {
		t.Errorf("finalizers: %v", svc.Finalizers)
	}

	l.node("a", "10.0.0.1", corev1.ConditionTrue)
	l.event(svc, "Updated load balancer with new hosts")
	want = append(want, "update default/web [a]")
	called("a node comes", want...)
	// A node that is not ready stays among the hosts: the balancer's own checks
	// take it out.
	l.node("a", "10.0.0.1", corev1.ConditionFalse)
	cloud.Fail(errors.New("quota"))
	l.node("b", "10.0.0.2", corev1.ConditionTrue)
	l.event(svc, "Error updating load balancer with new hosts [a b] [node names limited, total number of nodes: 2], error: quota")
	cloud.Fail(nil)
	c.Wait(t, "it is tried again", &corev1.EventList{}, func() bool {
		calls := cloud.Calls()
		return len(calls) > 3 && calls[len(calls)-1] == "update default/web [a b]"
	})
	for _, call := range cloud.Calls()[2:] {
		if call != "update default/web [a b]" {
			t.Errorf("unexpected: %s", call)
		}
	}

	must := func(err error) { t.Helper(); l.must(err) }
	fresh := svc.DeepCopy()
	must(l.Client.Get(t.Context(), ctrlclient.ObjectKeyFromObject(svc), fresh))
	fresh.Spec.Ports[0].Port = 81
	before := len(cloud.Calls())
	must(l.Client.Update(t.Context(), fresh))
	c.Wait(t, "the ports change", &corev1.EventList{}, func() bool {
		calls := cloud.Calls()[before:]
		return slices.Contains(calls, "ensure default/web [a b]")
	})
	must(l.Client.Delete(context.Background(), fresh))
	l.gone(fresh, func() bool { return len(fresh.Finalizers) == 0 })
	if calls := cloud.Calls(); calls[len(calls)-1] != "delete default/web []" {
		t.Errorf("at last: %s", calls[len(calls)-1])
	}
	// A node that is excluded is no host.
	before = len(cloud.Calls())
	excluded := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "x", Labels: map[string]string{corev1.LabelNodeExcludeBalancers: ""}}}
	must(l.Client.Create(t.Context(), excluded))
	other := l.service("other", 80)
	l.ingress(other, "203.0.113.7")
	if calls := cloud.Calls()[before:]; !slices.Equal(calls, []string{"ensure default/other [a b]"}) {
		t.Errorf("calls: %s", strings.Join(calls, ", "))
	}
}
