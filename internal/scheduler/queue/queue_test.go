package queue_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/plugins/queuesort"
	"skiff/internal/scheduler/plugins/schedulinggates"
	"skiff/internal/scheduler/queue"
)

// fixture is a queue whose time stands still unless it is moved. Plugins are
// cured by events of the namespace that has their name.
type fixture struct {
	*queue.Queue
	now   time.Time
	asked int
}

func newFixture() *fixture {
	f := &fixture{now: time.Unix(1000, 0)}
	f.Queue = queue.New(queue.Options{
		Less: queuesort.Plugin{}.Less, Gate: schedulinggates.Plugin{}.PreEnqueue, Now: func() time.Time { return f.now },
		Cures: func(plugin string, _ *framework.PodInfo, e framework.Event) bool {
			f.asked++
			return plugin == e.Namespace
		},
		InitialBackoff: time.Second, MaxBackoff: 10 * time.Second,
	})
	return f
}

func pod(name string, priority int32, app string) *framework.PodInfo {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{"app": app}}}
	p.Spec.Priority = &priority
	return framework.NewPodInfo(p)
}

// take returns the names of all pods that can be tried now.
func (f *fixture) take() string {
	var names []string
	for p := f.Take(); p != nil; p = f.Take() {
		names = append(names, p.Name)
	}
	return strings.Join(names, " ")
}

func (f *fixture) wake(plugin string) { f.Wake(framework.Event{Namespace: plugin}) }

func expect(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOrderIsByPriorityAndThenByAge(t *testing.T) {
	f := newFixture()
	for i, p := range []*framework.PodInfo{pod("low", 1, ""), pod("first", 5, ""), pod("second", 5, ""), pod("high", 9, "")} {
		f.now = f.now.Add(time.Duration(i))
		f.Set(p)
	}
	expect(t, f.take(), "high first second low")
}

func TestRejectedPodsWaitForWhatCuresThem(t *testing.T) {
	f := newFixture()
	f.Set(pod("a", 0, "a"))
	f.Set(pod("b", 0, "b"))
	expect(t, f.take(), "a b")
	f.Reject("a", []string{"Fit"}, false)
	f.Reject("b", []string{"Ports", "Taints"}, false)
	f.now = f.now.Add(time.Hour)
	expect(t, f.take(), "")
	f.wake("Nothing")
	expect(t, f.take(), "")
	f.wake("Taints")
	expect(t, f.take(), "b")
	f.wake("Fit")
	expect(t, f.take(), "a")
}

func TestEqualPodsAreTriedOneByOne(t *testing.T) {
	f := newFixture()
	for i := range 1000 {
		f.now = f.now.Add(1)
		f.Set(pod(fmt.Sprintf("p%03d", i), 0, "equal"))
	}
	for p := f.Take(); p != nil; p = f.Take() {
		f.Reject(p.UID, []string{"Fit"}, false)
	}
	f.asked = 0
	f.wake("Fit")
	if f.asked != 1 {
		t.Errorf("asked %d times about equal pods", f.asked)
	}
	// The first gets a place, and so the second is tried; it gets none.
	expect(t, f.Take().Name, "p000")
	expect(t, f.take(), "")
	f.Helped("p000")
	f.Delete("p000")
	expect(t, f.Take().Name, "p001")
	f.Reject("p001", []string{"Ports"}, false)
	expect(t, f.take(), "")
	// What holds for the last one tried holds for all.
	f.wake("Fit")
	expect(t, f.take(), "")
	f.wake("Ports")
	// The one that was to be tried is deleted before: another one stands in.
	f.Delete("p001")
	expect(t, f.take(), "p002")
}

func TestBackoffGrowsAndIsCutShortWhenIdle(t *testing.T) {
	f := newFixture()
	f.Set(pod("a", 0, "a"))
	for _, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		expect(t, f.take(), "a")
		f.Retry("a")
		ready, ok := f.Ready()
		if !ok || ready.Sub(f.now) != want*time.Second {
			t.Fatalf("ready in %v, want %v s", ready.Sub(f.now), int(want))
		}
		expect(t, f.take(), "")
		f.now = ready
	}
	f.Set(pod("fresh", 0, "b"))
	f.take()
	f.Reject("a", []string{"Fit"}, false)
	f.wake("Fit")
	f.Set(pod("new", 0, "c"))
	// Others go first, but nobody waits while there is nothing else to do.
	expect(t, f.take(), "new a")
}

func TestGates(t *testing.T) {
	f := newFixture()
	p := pod("a", 0, "a")
	gated := p.DeepCopy()
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
	f.Set(framework.NewPodInfo(gated))
	expect(t, f.take(), "")
	f.Set(p)
	expect(t, f.take(), "a")
}

func TestHeldPodsAreTriedAfterTheirRelease(t *testing.T) {
	f := newFixture()
	for _, name := range []string{"cured", "not"} {
		f.Set(pod(name, 0, name))
		f.Take()
		f.Reject(types.UID(name), []string{name}, true)
	}
	f.wake("cured")
	expect(t, f.take(), "")
	f.Release("cured")
	f.Release("not")
	expect(t, f.take(), "cured")
	f.wake("not")
	expect(t, f.take(), "not")
}

func TestEventsWhereRoomIsBeingMadeWakeThoseWhoWaitForIt(t *testing.T) {
	f := newFixture()
	for i := range 3 {
		f.now = f.now.Add(1)
		f.Set(pod(fmt.Sprintf("p%d", i), 0, "equal"))
	}
	for p := f.Take(); p != nil; p = f.Take() {
		f.Reject(p.UID, []string{"Fit"}, false)
	}
	f.Wake(framework.Event{Namespace: "Nothing", Host: &framework.NodeInfo{Nominated: []*framework.PodInfo{pod("p2", 0, "equal")}}})
	expect(t, f.take(), "p2")
}

func TestChangesThatMatterAreTriedAtOnce(t *testing.T) {
	f := newFixture()
	f.Set(pod("a", 0, "a"))
	f.take()
	f.Reject("a", []string{"Fit"}, false)
	same := pod("a", 0, "a").DeepCopy()
	same.Status.Message = "something"
	f.Set(framework.NewPodInfo(same))
	expect(t, f.take(), "")
	f.Set(pod("a", 0, "b"))
	expect(t, f.take(), "a")
}
