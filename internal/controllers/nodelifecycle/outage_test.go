package nodelifecycle_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/nodelifecycle"
)

// outage is a cluster whose nodes have problems; time passes quickly in it.
type outage struct {
	*controllertest.Cluster
	t     *testing.T
	clock *testclock.FakeClock
}

// stage runs the controller. Nodes that say nothing are not at fault, unless
// the options say so.
func stage(t *testing.T, o nodelifecycle.Options) *outage {
	clk := testclock.NewFakeClock(time.Now().Truncate(time.Second))
	x := &outage{controllertest.StartAt(t, clk), t, clk}
	o.Grace, o.StartupGrace = cmp.Or(o.Grace, 100*time.Hour), cmp.Or(o.StartupGrace, 100*time.Hour)
	x.Run("node-controller", func(d controller.Deps) (controller.Runnable, error) { return nodelifecycle.New(d, o) })
	return x
}

// goOn lets time pass until the test ends.
func (x *outage) goOn() {
	testcluster.Run(x.t, func(ctx context.Context) error {
		fast := time.NewTicker(10 * time.Millisecond)
		defer fast.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-fast.C:
				x.clock.Step(time.Second)
			}
		}
	})
}

// report is the status that a node's kubelet sends, with more conditions than
// that it is ready.
func (x *outage) report(name string, ready corev1.ConditionStatus, more ...corev1.NodeConditionType) {
	x.t.Helper()
	for {
		n := controllertest.Get(x.Cluster, "", name, &corev1.Node{})
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, LastHeartbeatTime: metav1.NewTime(x.clock.Now())}}
		for _, kind := range more {
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: kind, Status: corev1.ConditionTrue})
		}
		err := x.Client.Status().Update(context.Background(), n)
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			x.t.Fatal(err)
		}
	}
}

// zone makes nodes that are ready, and returns their names.
func (x *outage) zone(zone string, n int) (names []string) {
	x.t.Helper()
	for i := range n {
		name := fmt.Sprintf("%s%02d", zone, i)
		names = append(names, name)
		x.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}}})
		x.report(name, corev1.ConditionTrue)
	}
	x.until("all are ready", func() bool { return len(x.tainted(corev1.TaintEffectNoSchedule, names)) == 0 })
	return names
}

func (x *outage) fail(names []string) {
	for _, name := range names {
		x.report(name, corev1.ConditionFalse)
	}
	x.until("they are known to have failed", func() bool { return len(x.tainted(corev1.TaintEffectNoSchedule, names)) == len(names) })
}

func (x *outage) until(what string, ok func() bool) {
	x.t.Helper()
	x.Eventually(what, &corev1.NodeList{}, ok)
}

// tainted are the times at which those nodes were tainted that are not ready.
func (x *outage) tainted(effect corev1.TaintEffect, names []string) map[string]time.Time {
	var list corev1.NodeList
	x.List(&list)
	at := map[string]time.Time{}
	for _, n := range list.Items {
		for _, t := range n.Spec.Taints {
			if t.Effect == effect && slices.Contains(names, n.Name) && (t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable) {
				// New nodes are tainted by the API server, at no time.
				at[n.Name] = ptr.Deref(t.TimeAdded, metav1.Time{}).Time
			}
		}
	}
	return at
}

// evicted are those whose pods are driven out, and the shortest time between two.
func (x *outage) evicted(names []string) (n int, shortest time.Duration) {
	times := slices.SortedFunc(maps.Values(x.tainted(corev1.TaintEffectNoExecute, names)), time.Time.Compare)
	shortest = time.Hour
	for i := 1; i < len(times); i++ {
		shortest = min(shortest, times[i].Sub(times[i-1]))
	}
	return len(times), shortest
}

func TestTaintsByCondition(t *testing.T) {
	x := stage(t, nodelifecycle.Options{})
	x.zone("well", 3)
	x.zone("n", 1)
	controllertest.Change(x.Cluster, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n00"}}, func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoSchedule}}
	})
	for _, test := range []struct {
		ready      corev1.ConditionStatus
		conditions []corev1.NodeConditionType
		cordoned   bool
		want       []string
	}{
		{corev1.ConditionTrue, nil, false, nil},
		{corev1.ConditionTrue, []corev1.NodeConditionType{corev1.NodeMemoryPressure}, false, []string{"memory-pressure:NoSchedule"}},
		{corev1.ConditionTrue, []corev1.NodeConditionType{corev1.NodeDiskPressure, corev1.NodePIDPressure}, false, []string{"disk-pressure:NoSchedule", "pid-pressure:NoSchedule"}},
		{corev1.ConditionTrue, []corev1.NodeConditionType{corev1.NodeNetworkUnavailable}, true, []string{"network-unavailable:NoSchedule", "unschedulable:NoSchedule"}},
		{corev1.ConditionFalse, nil, false, []string{"not-ready:NoExecute", "not-ready:NoSchedule"}},
		{corev1.ConditionUnknown, []corev1.NodeConditionType{corev1.NodeMemoryPressure}, false, []string{"memory-pressure:NoSchedule", "unreachable:NoExecute", "unreachable:NoSchedule"}},
		{corev1.ConditionTrue, nil, false, nil},
	} {
		controllertest.Change(x.Cluster, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n00"}}, func(n *corev1.Node) { n.Spec.Unschedulable = test.cordoned })
		x.report("n00", test.ready, test.conditions...)
		want := []string{"mine:NoSchedule"}
		for _, taint := range test.want {
			want = append(want, "node.kubernetes.io/"+taint)
		}
		x.until(fmt.Sprint(test), func() bool {
			var got []string
			for _, taint := range controllertest.Get(x.Cluster, "", "n00", &corev1.Node{}).Spec.Taints {
				got = append(got, taint.Key+":"+string(taint.Effect))
			}
			slices.Sort(got)
			return slices.Equal(got, want)
		})
	}
}

// In a zone that is well otherwise, the pods of one node after the other are
// driven out.
func TestEvictionRate(t *testing.T) {
	x := stage(t, nodelifecycle.Options{EvictionInterval: 20 * time.Second})
	down := x.zone("a", 10)[:4]
	x.goOn()
	x.fail(down)
	x.until("all are evicted", func() bool { n, _ := x.evicted(down); return n == len(down) })
	if _, shortest := x.evicted(down); shortest < 19*time.Second {
		t.Errorf("two nodes are evicted within %s", shortest)
	}
	// Those that are well again are so at once.
	for _, name := range down {
		x.report(name, corev1.ConditionTrue)
	}
	x.until("the taints go", func() bool {
		n, _ := x.evicted(down)
		return n == 0 && len(x.tainted(corev1.TaintEffectNoSchedule, down)) == 0
	})
}

// When most of a zone fails, that of a small one is no more than waited for, and
// a large one is evicted slowly, whatever happens elsewhere.
func TestPartialDisruption(t *testing.T) {
	x := stage(t, nodelifecycle.Options{EvictionInterval: 10 * time.Second, SecondaryInterval: 50 * time.Second})
	small, large, well := x.zone("s", 6), x.zone("l", 51), x.zone("w", 8)
	x.fail(small[:4])
	x.fail(large[:30])
	already, _ := x.evicted(small)
	slow := map[string]bool{}
	for name := range x.tainted(corev1.TaintEffectNoExecute, large) {
		slow[name] = true
	}
	x.goOn()
	x.fail(well[:3])
	// From now on both are disrupted.
	rest := slices.DeleteFunc(slices.Clone(large[:30]), func(name string) bool { return slow[name] })
	x.until("some of the large zone", func() bool { n, _ := x.evicted(rest); return n >= 3 })
	if n, shortest := x.evicted(rest); shortest < 49*time.Second {
		t.Errorf("%d nodes of a disrupted zone, two of them within %s", n, shortest)
	}
	x.until("those of the zone that is well", func() bool { n, _ := x.evicted(well[:3]); return n == 3 })
	if n, _ := x.evicted(small); n != already {
		t.Errorf("%d nodes of a small zone that is disrupted, %d before", n, already)
	}
}

// A zone that fails as a whole is evicted as one node is, as long as another can
// be heard.
func TestFullDisruption(t *testing.T) {
	x := stage(t, nodelifecycle.Options{EvictionInterval: 10 * time.Second})
	down := x.zone("a", 4)
	x.zone("b", 1)
	x.goOn()
	x.fail(down)
	x.until("all are evicted", func() bool { n, _ := x.evicted(down); return n == len(down) })
	if _, shortest := x.evicted(down); shortest < 9*time.Second {
		t.Errorf("two nodes are evicted within %s", shortest)
	}
}

// If nobody can be heard, nobody is evicted, and what was begun is taken back;
// as soon as one zone is well, things take their course.
func TestAllZonesDown(t *testing.T) {
	x := stage(t, nodelifecycle.Options{EvictionInterval: 10 * time.Second})
	a, b := x.zone("a", 4), x.zone("b", 3)
	x.goOn()
	x.fail(a)
	x.until("one zone is evicted", func() bool { n, _ := x.evicted(a); return n == len(a) })
	x.fail(b)
	x.until("it is called off", func() bool { n, _ := x.evicted(append(a, b...)); return n == 0 })
	x.report(b[0], corev1.ConditionTrue)
	x.until("it goes on", func() bool { n, _ := x.evicted(a); return n == len(a) })
	if _, shortest := x.evicted(a); shortest < 9*time.Second {
		t.Errorf("two nodes are evicted within %s", shortest)
	}
	for _, name := range append(a, b...) {
		x.report(name, corev1.ConditionTrue)
	}
	x.until("all is well", func() bool {
		return len(x.tainted(corev1.TaintEffectNoSchedule, append(a, b...)))+len(x.tainted(corev1.TaintEffectNoExecute, append(a, b...))) == 0
	})
}

// Nodes that say nothing for long are unknown: after a while those that said
// something, and after another those that never did.
func TestSilence(t *testing.T) {
	x := stage(t, nodelifecycle.Options{Grace: 100 * time.Second, StartupGrace: 300 * time.Second})
	x.zone("spoke", 1)
	x.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "never"}})
	began := x.clock.Now()
	x.goOn()
	for name, want := range map[string]struct {
		reason, message string
		after           time.Duration
	}{
		"spoke00": {"NodeStatusUnknown", "Kubelet stopped posting node status.", 100 * time.Second},
		"never":   {"NodeStatusNeverUpdated", "Kubelet never posted node status.", 300 * time.Second},
	} {
		x.until(name+" is unknown", func() bool {
			conditions := controllertest.Get(x.Cluster, "", name, &corev1.Node{}).Status.Conditions
			i := slices.IndexFunc(conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
			if i < 0 || conditions[i].Status != corev1.ConditionUnknown {
				return false
			}
			if c := conditions[i]; c.Reason != want.reason || c.Message != want.message || c.LastTransitionTime.Sub(began) < want.after-time.Second {
				t.Errorf("%s: %+v after %s", name, c, c.LastTransitionTime.Sub(began))
			}
			return true
		})
		if got, want := x.WaitForEvent("", name, "NodeNotReady"), "Node "+name+" status is now: NodeNotReady"; got != want {
			t.Errorf("said %q, want %q", got, want)
		}
	}
}
