package client_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
}

func events(t *testing.T, c *testcluster.Cluster) []corev1.Event {
	t.Helper()
	list := &corev1.EventList{}
	if err := c.Client.List(context.Background(), list); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func TestNoEventOfABurstIsLost(t *testing.T) {
	c := testcluster.Start(t)
	recorder := c.Set(identity.Component("system:kube-scheduler")).Recorder("burst")
	const n = 1500
	for i := range n {
		recorder.Eventf(pod(fmt.Sprintf("p%d", i)), corev1.EventTypeNormal, "Scheduled", "p%d", i)
	}
	c.Wait(t, "all events", &corev1.EventList{}, func() bool { return len(events(t, c)) == n })
}

func TestEqualEventsAreCounted(t *testing.T) {
	c := testcluster.Start(t)
	recorder := c.Set(identity.Component("system:kube-scheduler")).Recorder("counted")
	const n = 5
	for range n {
		recorder.Event(pod("p"), corev1.EventTypeWarning, "FailedScheduling", "no room")
	}
	recorder.Event(pod("p"), corev1.EventTypeWarning, "FailedScheduling", "no room yet")
	c.Wait(t, "two events", &corev1.EventList{}, func() bool { return len(events(t, c)) == 2 })
	for _, e := range events(t, c) {
		want := int32(n)
		if e.Message == "no room yet" {
			want = 1
		}
		if e.Count != want || e.Source.Component != "counted" || e.ReportingController != "counted" || e.InvolvedObject.UID != "p" || e.FirstTimestamp.IsZero() {
			t.Errorf("%q: counted %d times, want %d; %+v", e.Message, e.Count, want, e)
		}
	}
}
