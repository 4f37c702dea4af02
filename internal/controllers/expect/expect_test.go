package expect

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	testingclock "k8s.io/utils/clock/testing"
)

var owner = types.NamespacedName{Namespace: "ns", Name: "owner"}

func pod(name, version string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), ResourceVersion: version}}
}

func never(types.NamespacedName) bool  { return false }
func always(types.NamespacedName) bool { return true }

func TestCreation(t *testing.T) {
	clock := testingclock.NewFakeClock(time.Unix(1, 0))
	tracker := New(clock)
	wait := func(exists func(types.NamespacedName) bool, found ...*corev1.Pod) time.Duration {
		return Wait(tracker, owner, found, exists)
	}
	if wait(never) != 0 {
		t.Error("waits for nothing")
	}
	tracker.Created(owner, pod("a", "10"))
	if wait(never) != patience {
		t.Error("does not wait for an unseen creation")
	}
	tracker.Saw(pod("a", "10"))
	if wait(always) != lag {
		t.Error("does not wait for the index")
	}
	if wait(always, pod("a", "10")) != 0 {
		t.Error("waits though all is seen")
	}
	tracker.Created(owner, pod("b", "11"))
	tracker.Saw(pod("b", "12"))
	if wait(never) != 0 {
		t.Error("waits for a pod that is gone again")
	}
	tracker.Created(owner, pod("c", "20"))
	clock.Step(patience)
	if wait(never) != 0 {
		t.Error("waits for ever")
	}
}

func TestDeletion(t *testing.T) {
	tracker := New(testingclock.NewFakeClock(time.Unix(1, 0)))
	tracker.Deleted(owner, "a")
	if Wait(tracker, owner, []*corev1.Pod{pod("a", "1")}, never) == 0 {
		t.Error("does not wait for a deletion")
	}
	going := pod("a", "2")
	going.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	if Wait(tracker, owner, []*corev1.Pod{going}, never) != 0 {
		t.Error("waits for a pod that is going")
	}
}
