package eviction

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	testingclock "k8s.io/utils/clock/testing"

	"skiff/internal/kubelet/manifests"
)

const gib = 1 << 30

// pod asks for some memory and disk, both in bytes.
func pod(name string, priority int32, memory, disk int64) *v1.Pod {
	requests := v1.ResourceList{}
	if memory > 0 {
		requests[v1.ResourceMemory] = *resource.NewQuantity(memory, resource.BinarySI)
	}
	if disk > 0 {
		requests[v1.ResourceEphemeralStorage] = *resource.NewQuantity(disk, resource.BinarySI)
	}
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
		Spec: v1.PodSpec{
			Priority:   &priority,
			Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: requests}}},
		},
	}
}

// machine is what a manager watches over in tests: an eviction or a reclaim changes
// what is left as the test says.
type machine struct {
	observed  Observations
	pods      []*v1.Pod
	usage     map[types.UID]PodUsage
	usageErr  error
	onReclaim func()
	onEvict   func(*v1.Pod)
	reclaims  int
	evicted   []string
	messages  []string
}

func (n *machine) Measure() Observations { return n.observed }
func (n *machine) Active() []*v1.Pod     { return slices.Clone(n.pods) }
func (n *machine) Usage(context.Context, []*v1.Pod) (map[types.UID]PodUsage, error) {
	return n.usage, n.usageErr
}

func (n *machine) Reclaim(context.Context) error {
	n.reclaims++
	if n.onReclaim != nil {
		n.onReclaim()
	}
	return nil
}

func (n *machine) Evict(_ context.Context, pod *v1.Pod, message string) {
	n.evicted, n.messages = append(n.evicted, pod.Name), append(n.messages, message)
	n.pods = slices.DeleteFunc(n.pods, func(p *v1.Pod) bool { return p == pod })
	if n.onEvict != nil {
		n.onEvict(pod)
	}
}

type fixture struct {
	*Manager
	node    *machine
	clock   *testingclock.FakeClock
	events  *record.FakeRecorder
	changes int
}

func manager(t *testing.T, thresholds string, n *machine) *fixture {
	t.Helper()
	parsed, err := ParseThresholds(thresholds)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{node: n, clock: testingclock.NewFakeClock(time.Unix(1000, 0)), events: record.NewFakeRecorder(100)}
	f.Manager = &Manager{
		Thresholds: parsed, Node: n, Reference: &v1.ObjectReference{Kind: "Node", Name: "n"}, Recorder: f.events,
		Clock: f.clock, Log: slog.New(slog.DiscardHandler), Changed: func() { f.changes++ },
	}
	return f
}

func (f *fixture) event() string {
	select {
	case e := <-f.events.Events:
		return e
	default:
		return ""
	}
}

func TestNothingScarce(t *testing.T) {
	n := &machine{observed: Measure(t.TempDir(), ""), pods: []*v1.Pod{pod("a", 0, 0, 0)}}
	// A byte is left anywhere.
	f := manager(t, "memory.available<1,nodefs.available<1,imagefs.available<1,pid.available<1", n)
	if f.relieve(t.Context()) || len(n.evicted) > 0 || n.reclaims > 0 || len(f.Conditions()) > 0 || f.changes > 0 || f.event() != "" {
		t.Errorf("a node that lacks nothing: evicted %v, reclaims %d, conditions %v", n.evicted, n.reclaims, f.Conditions())
	}
}

func TestEvictsOnePodAtATime(t *testing.T) {
	n := &machine{
		observed: Observations{MemoryAvailable: {Available: 50 << 20, Capacity: 4 * gib}},
		pods:     []*v1.Pod{pod("modest", 0, gib, 0), pod("greedy", 0, 0, 0), pod("greedier", 0, 0, 0)},
		usage: map[types.UID]PodUsage{
			"modest":   {Usage: Usage{Memory: gib / 2}},
			"greedy":   {Usage: Usage{Memory: gib}},
			"greedier": {Usage: Usage{Memory: 2 * gib}, Containers: map[string]Usage{"c": {Memory: 2 * gib}}},
		},
	}
	n.onEvict = func(p *v1.Pod) {
		if p.Name == "greedy" {
			n.observed[MemoryAvailable] = Observation{Available: gib, Capacity: 4 * gib}
		}
	}
	f := manager(t, DefaultThresholds, n)
	if !f.relieve(t.Context()) || !slices.Equal(n.evicted, []string{"greedier"}) {
		t.Fatalf("first %v", n.evicted)
	}
	want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 2Gi, request is 0, has larger consumption of memory. "
	if n.messages[0] != want {
		t.Errorf("message %q, want %q", n.messages[0], want)
	}
	if e := f.event(); e != "Warning EvictionThresholdMet Attempting to reclaim memory" {
		t.Errorf("event %q", e)
	}
	if e := f.event(); !strings.HasPrefix(e, "Warning Evicted "+want) {
		t.Errorf("event %q", e)
	}
	if !f.relieve(t.Context()) || f.relieve(t.Context()) || !slices.Equal(n.evicted, []string{"greedier", "greedy"}) {
		t.Errorf("evicted %v", n.evicted)
	}
	if n.reclaims != 0 {
		t.Error("images are no help against a lack of memory")
	}
}

func TestConditionsOutlastTheScarcity(t *testing.T) {
	n := &machine{observed: Observations{NodeFsInodesFree: {Available: 4, Capacity: 100}, MemoryAvailable: {Available: gib, Capacity: gib}}}
	f := manager(t, DefaultThresholds, n)
	f.look()
	disk := []v1.NodeConditionType{v1.NodeDiskPressure}
	if got := f.Conditions(); !slices.Equal(got, disk) || f.changes != 1 {
		t.Fatalf("conditions %v, %d changes", got, f.changes)
	}
	f.clock.Step(time.Minute)
	f.look()
	n.observed[NodeFsInodesFree] = Observation{Available: 5, Capacity: 100}
	f.clock.Step(transition - time.Second)
	if f.look(); !slices.Equal(f.Conditions(), disk) || f.changes != 1 {
		t.Errorf("conditions %v, %d changes before the time is over", f.Conditions(), f.changes)
	}
	f.clock.Step(time.Second)
	if f.look(); len(f.Conditions()) > 0 || f.changes != 2 {
		t.Errorf("conditions %v, %d changes after it", f.Conditions(), f.changes)
	}
}

func TestReclaimsDiskBeforeItEvicts(t *testing.T) {
	full, fine := Observation{Available: 9, Capacity: 100}, Observation{Available: 50, Capacity: 100}
	for _, enough := range []bool{true, false} {
		n := &machine{observed: Observations{NodeFsAvailable: full}, pods: []*v1.Pod{pod("a", 0, 0, 0)}}
		n.onReclaim = func() {
			if enough {
				n.observed[NodeFsAvailable] = fine
			}
		}
		f := manager(t, DefaultThresholds, n)
		if evicted := f.relieve(t.Context()); evicted == enough || n.reclaims != 1 {
			t.Errorf("enough %t: evicted %v after %d reclaims", enough, n.evicted, n.reclaims)
		}
	}
}

func TestCriticalPodsStay(t *testing.T) {
	mirror, static := pod("mirror", 0, 0, 0), pod("static", 0, 0, 0)
	mirror.Annotations = map[string]string{manifests.MirrorAnnotation: "x"}
	static.Annotations = map[string]string{manifests.SourceAnnotation: "file"}
	n := &machine{
		observed: Observations{PIDAvailable: {Available: 1, Capacity: 100}},
		pods:     []*v1.Pod{mirror, static, pod("critical", systemCritical, 0, 0)},
	}
	f := manager(t, "pid.available<10%", n)
	if f.relieve(t.Context()) || len(n.evicted) > 0 {
		t.Errorf("evicted %v", n.evicted)
	}
	n.pods, n.usageErr = append(n.pods, pod("other", systemCritical-1, 0, 0)), errors.New("no statistics")
	if !f.relieve(t.Context()) || !slices.Equal(n.evicted, []string{"other"}) {
		t.Errorf("evicted %v without statistics", n.evicted)
	}
}

func TestRank(t *testing.T) {
	usage := map[types.UID]PodUsage{
		"within":      {Usage: Usage{Memory: 9, Disk: 9, PIDs: 7}},
		"within-low":  {Usage: Usage{Memory: 1, Disk: 1, PIDs: 1}},
		"exceeds":     {Usage: Usage{Memory: 11, Disk: 30, PIDs: 2}},
		"exceeds-far": {Usage: Usage{Memory: 30, Disk: 11, PIDs: 3}},
		"important":   {Usage: Usage{Memory: 99, Disk: 99, PIDs: 99}},
	}
	pods := []*v1.Pod{
		pod("within", 0, 10, 10), pod("within-low", -1, 10, 10), pod("exceeds", 0, 10, 10), pod("exceeds-far", 0, 10, 10),
		pod("important", 5, 10, 10), pod("unknown", 9, 10, 10),
	}
	for _, test := range []struct {
		signal Signal
		want   []string
	}{
		{MemoryAvailable, []string{"unknown", "exceeds-far", "exceeds", "important", "within-low", "within"}},
		{NodeFsAvailable, []string{"unknown", "exceeds", "exceeds-far", "important", "within-low", "within"}},
		{PIDAvailable, []string{"unknown", "within-low", "within", "exceeds-far", "exceeds", "important"}},
	} {
		ranked := slices.Clone(pods)
		rank(ranked, usage, test.signal)
		var got []string
		for _, p := range ranked {
			got = append(got, p.Name)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.signal, got, test.want)
		}
	}
}

func TestRefuse(t *testing.T) {
	tolerant := pod("tolerant", 0, 0, 0)
	tolerant.Spec.Tolerations = []v1.Toleration{{Key: v1.TaintNodeMemoryPressure, Operator: v1.TolerationOpExists}}
	pods := []*v1.Pod{pod("best-effort", 0, 0, 0), pod("burstable", 0, gib, 0), tolerant, pod("critical", systemCritical, 0, 0)}
	scarceMemory, scarceDisk := Observation{Available: 1, Capacity: gib}, Observation{Available: 1, Capacity: 100}
	for _, test := range []struct {
		observed Observations
		refused  []string
		message  string
	}{
		{Observations{}, nil, ""},
		{Observations{MemoryAvailable: scarceMemory}, []string{"best-effort"}, "The node had condition: [MemoryPressure]. "},
		{Observations{ImageFsAvailable: scarceDisk}, []string{"best-effort", "burstable", "tolerant"}, "The node had condition: [DiskPressure]. "},
		{Observations{MemoryAvailable: scarceMemory, NodeFsAvailable: scarceDisk}, []string{"best-effort", "burstable", "tolerant"}, "The node had condition: [DiskPressure MemoryPressure]. "},
	} {
		f := manager(t, DefaultThresholds, &machine{observed: test.observed})
		f.look()
		var refused []string
		for _, p := range pods {
			if message := f.Refuse(p); message != "" {
				refused = append(refused, p.Name)
				if message != test.message {
					t.Errorf("message %q, want %q", message, test.message)
				}
			}
		}
		if !slices.Equal(refused, test.refused) {
			t.Errorf("%v: refused %v, want %v", test.observed, refused, test.refused)
		}
	}
}

func TestRunLooksAgainAtOnceAfterAnEviction(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := &machine{observed: Observations{MemoryAvailable: {Available: 1, Capacity: gib}}}
	for i := range 3 {
		n.pods = append(n.pods, pod(fmt.Sprint("p", i), 0, 0, 0))
	}
	n.onEvict = func(*v1.Pod) {
		if len(n.pods) == 0 {
			cancel()
		}
	}
	// The clock stands still: no eviction waits for it.
	manager(t, DefaultThresholds, n).Run(ctx)
	if len(n.evicted) != 3 {
		t.Errorf("evicted %v", n.evicted)
	}
}
