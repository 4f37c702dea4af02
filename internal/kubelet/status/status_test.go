package status

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"skiff/internal/kubelet/runtime"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// probes has results by container ID; others pass.
type probes map[string]bool

func (p probes) Started(*v1.Container, string) bool { return true }
func (p probes) Ready(_ *v1.Container, id string) bool {
	ready, known := p[id]
	return ready || !known
}

// state reads "name=running" and "name=<exit code>", older instances first; a
// slash goes before the container's life.
func state(words string) *runtime.Pod {
	p := &runtime.Pod{Sandboxes: []*runtime.Sandbox{{ID: "s", Ready: true, IPs: []string{"10.0.0.1", "fd00::1"}}}}
	attempts := map[string]uint32{}
	for _, word := range strings.Fields(words) {
		name, what, _ := strings.Cut(word, "=")
		what, life, _ := strings.Cut(what, "/")
		c := &runtime.Container{ID: fmt.Sprintf("%s-%d", name, attempts[name]), Name: name, Attempt: attempts[name], SandboxID: "s",
			StartedAt: now.Add(-time.Minute), Image: "image", ImageID: "sha256:1"}
		attempts[name]++
		fmt.Sscan(life, &c.Life)
		if what == "running" {
			c.State = runtime.Running
		} else {
			c.State, c.FinishedAt, c.Reason = runtime.Exited, now, "Completed"
			fmt.Sscan(what, &c.ExitCode)
			if c.ExitCode != 0 {
				c.Reason = "Error"
			}
		}
		p.Containers = append([]*runtime.Container{c}, p.Containers...)
	}
	return p
}

// summary writes what matters of a status: phase, states, conditions.
func summary(s v1.PodStatus) string {
	var out []string
	out = append(out, string(s.Phase))
	for _, c := range append(s.InitContainerStatuses, s.ContainerStatuses...) {
		word := c.Name + "="
		switch {
		case c.State.Running != nil:
			word += "running"
		case c.State.Terminated != nil:
			word += fmt.Sprintf("%s:%d", c.State.Terminated.Reason, c.State.Terminated.ExitCode)
		case c.State.Waiting != nil:
			word += c.State.Waiting.Reason
		}
		if c.Ready {
			word += "+"
		}
		if c.RestartCount > 0 {
			word += fmt.Sprintf("#%d", c.RestartCount)
		}
		out = append(out, word)
	}
	for _, c := range s.Conditions {
		if c.Status == v1.ConditionTrue && (c.Type == v1.PodReady || c.Type == v1.PodInitialized || c.Type == v1.AllContainersRestarting) {
			out = append(out, string(c.Type))
		}
	}
	return strings.Join(out, " ")
}

func TestGenerate(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	one := v1.PodSpec{Containers: []v1.Container{{Name: "a"}}}
	two := v1.PodSpec{Containers: []v1.Container{{Name: "a"}, {Name: "b"}}}
	init := v1.PodSpec{InitContainers: []v1.Container{{Name: "i"}}, Containers: []v1.Container{{Name: "a"}}}
	side := v1.PodSpec{InitContainers: []v1.Container{{Name: "s", RestartPolicy: &always}}, Containers: []v1.Container{{Name: "a"}}}
	with := func(s v1.PodSpec, p v1.RestartPolicy) v1.PodSpec { s.RestartPolicy = p; return s }
	all := v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, InitContainers: []v1.Container{{Name: "i"}}, Containers: []v1.Container{
		{Name: "a", RestartPolicyRules: []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers, ExitCodes: &v1.ContainerRestartRuleOnExitCodes{
			Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42},
		}}}}, {Name: "b"},
	}}
	back := map[string]Waiting{"a": {"CrashLoopBackOff", "back-off"}}
	tests := []struct {
		name  string
		spec  v1.PodSpec
		state string
		edit  func(*Input)
		want  string
	}{
		{"nothing yet", one, "", nil, "Pending a=ContainerCreating Initialized"},
		{"runs", one, "a=running", nil, "Running a=running+ Initialized Ready"},
		{"not ready", one, "a=running", func(in *Input) { in.Probes = probes{"a-0": false} }, "Running a=running Initialized"},
		{"one is missing", two, "a=running", nil, "Pending a=running+ b=ContainerCreating Initialized"},
		{"image missing", one, "", func(in *Input) { in.Waiting = map[string]Waiting{"a": {"ErrImagePull", ""}} }, "Pending a=ErrImagePull Initialized"},
		{"restarted", one, "a=1 a=running", nil, "Running a=running+#1 Initialized Ready"},
		{"backing off", one, "a=1 a=1", func(in *Input) { in.Waiting = back }, "Running a=CrashLoopBackOff#1 Initialized"},
		{"between end and restart", one, "a=1", nil, "Running a=Error:1 Initialized"},

		{"all are to restart", all, "i=0 a=42 b=running", nil, "Running i=RestartingAllContainers a=RestartingAllContainers b=running+ Initialized AllContainersRestarting"},
		{"all have ended for it", all, "i=0 a=42 b=137", nil,
			"Running i=RestartingAllContainers a=RestartingAllContainers b=RestartingAllContainers Initialized AllContainersRestarting"},
		{"all restart", all, "i=0 a=42 b=137 i=running/1", nil, "Running i=running#1 a=RestartingAllContainers b=RestartingAllContainers Initialized"},
		{"all have restarted", all, "i=0 a=42 b=137 i=0/1 a=running/1 b=running/1", nil, "Running i=Completed:0+#1 a=running+#1 b=running+#1 Initialized Ready"},
		{"none is to restart", all, "i=0 a=41 b=running", nil, "Running i=Completed:0+ a=Error:41 b=running+ Initialized"},

		{"init waits", init, "", nil, "Pending i=PodInitializing a=PodInitializing"},
		{"init runs", init, "i=running", nil, "Pending i=running a=PodInitializing"},
		{"init done", init, "i=0", nil, "Pending i=Completed:0+ a=PodInitializing Initialized"},
		{"init done, app runs", init, "i=0 a=running", nil, "Running i=Completed:0+ a=running+ Initialized Ready"},
		{"init backs off", init, "i=1", func(in *Input) { in.Waiting = map[string]Waiting{"i": {"CrashLoopBackOff", ""}} }, "Pending i=CrashLoopBackOff a=PodInitializing"},
		{"init failed for good", with(init, v1.RestartPolicyNever), "i=1", func(in *Input) { in.Terminated = true }, "Failed i=Error:1 a=PodInitializing"},

		{"sidecar runs", side, "s=running", nil, "Pending s=running+ a=PodInitializing Initialized"},
		{"sidecar and app run", side, "s=running a=running", nil, "Running s=running+ a=running+ Initialized Ready"},
		{"sidecar not ready", side, "s=running a=running", func(in *Input) { in.Probes = probes{"s-0": false} }, "Running s=running a=running+ Initialized"},
		{"app done, sidecar still runs", with(side, v1.RestartPolicyNever), "s=running a=0", func(in *Input) {
			in.Terminating, in.Pod.Status.Phase = true, v1.PodRunning
		}, "Running s=running+ a=Completed:0 Initialized"},
		{"app and sidecar done", with(side, v1.RestartPolicyNever), "s=143 a=0", func(in *Input) { in.Terminated = true }, "Succeeded s=Error:143 a=Completed:0 Initialized"},

		{"succeeded, sandbox not yet gone", with(two, v1.RestartPolicyNever), "a=0 b=0", func(in *Input) { in.Pod.Status.Phase = v1.PodRunning }, "Running a=Completed:0 b=Completed:0 Initialized"},
		{"succeeded", with(two, v1.RestartPolicyOnFailure), "a=0 b=0", func(in *Input) { in.Terminated = true }, "Succeeded a=Completed:0 b=Completed:0 Initialized"},
		{"failed", with(two, v1.RestartPolicyNever), "a=0 b=2", func(in *Input) { in.Terminated = true }, "Failed a=Completed:0 b=Error:2 Initialized"},
		{"on failure, will restart", with(two, v1.RestartPolicyOnFailure), "a=0 b=2", nil, "Running a=Completed:0 b=Error:2 Initialized"},
		{"deadline passed", one, "a=137", func(in *Input) {
			in.Failed, in.Terminated = &Waiting{"DeadlineExceeded", "late"}, true
		}, "Failed a=Error:137 Initialized"},
		{"deleted while it ran", one, "a=137", func(in *Input) {
			in.Terminated, in.Pod.DeletionTimestamp = true, &metav1.Time{Time: now}
		}, "Failed a=Error:137 Initialized"},
		{"deleted, ended well", one, "a=0", func(in *Input) {
			in.Terminated, in.Pod.DeletionTimestamp = true, &metav1.Time{Time: now}
		}, "Succeeded a=Completed:0 Initialized"},
		{"deleted before it started", one, "", func(in *Input) {
			in.Terminated, in.Pod.DeletionTimestamp = true, &metav1.Time{Time: now}
		}, "Failed a=ContainerCreating Initialized"},
		{"the last phase never changes", one, "a=0", func(in *Input) {
			in.Terminated, in.Pod.Status.Phase = true, v1.PodFailed
		}, "Failed a=Completed:0 Initialized"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			pod := &v1.Pod{Spec: test.spec}
			in := Input{Pod: pod, Runtime: state(test.state), RuntimeName: "containerd", Probes: probes{}, StartTime: now,
				HostIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Now: now}
			if test.edit != nil {
				test.edit(&in)
			}
			if got := summary(Generate(in)); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// TestForgottenEnds are ends of which the runtime knows no more, as of init
// containers that have run again.
func TestForgottenEnds(t *testing.T) {
	end := func(code int32) v1.ContainerState {
		return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: code}}
	}
	for _, test := range []struct {
		name string
		old  v1.ContainerStatus
		want *v1.ContainerStateTerminated
	}{
		{"the same container", v1.ContainerStatus{Name: "i", ContainerID: "://i-1", LastTerminationState: end(3)}, end(3).Terminated},
		{"the one before", v1.ContainerStatus{Name: "i", ContainerID: "://i-0", State: end(4), LastTerminationState: end(3)}, end(4).Terminated},
		{"another", v1.ContainerStatus{Name: "j", ContainerID: "://i-1", LastTerminationState: end(3)}, nil},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{InitContainers: []v1.Container{{Name: "i"}}, Containers: []v1.Container{{Name: "a"}}}}
		pod.Status.InitContainerStatuses = []v1.ContainerStatus{test.old}
		known := state("i=0 i=0 a=running")
		known.Containers = slices.DeleteFunc(known.Containers, func(c *runtime.Container) bool { return c.ID == "i-0" })
		got := Generate(Input{Pod: pod, Runtime: known, Probes: probes{}, Now: now}).InitContainerStatuses[0]
		if got.RestartCount != 1 || !reflect.DeepEqual(got.LastTerminationState.Terminated, test.want) {
			t.Errorf("%s: restarted %d times, last %+v, want %+v", test.name, got.RestartCount, got.LastTerminationState.Terminated, test.want)
		}
	}
}

func TestConditions(t *testing.T) {
	earlier := metav1.NewTime(now.Add(-time.Hour))
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "a"}}, ReadinessGates: []v1.PodReadinessGate{{ConditionType: "gate"}}}}
	pod.Generation = 7
	pod.Status.Conditions = []v1.PodCondition{
		{Type: "foreign", Status: v1.ConditionTrue},
		{Type: v1.PodInitialized, Status: v1.ConditionTrue, LastTransitionTime: earlier},
	}
	in := Input{Pod: pod, Runtime: state("a=running"), Probes: probes{}, Now: now}
	s := Generate(in)
	if c := find(s.Conditions, v1.PodReady); c.Status != v1.ConditionFalse || c.Reason != "ReadinessGatesNotReady" ||
		c.Message != `corresponding condition of pod readiness gate "gate" does not exist.` {
		t.Errorf("ready: %+v", c)
	}
	if c := find(s.Conditions, v1.ContainersReady); c.Status != v1.ConditionTrue || c.ObservedGeneration != 7 {
		t.Errorf("containers ready: %+v", c)
	}
	if c := find(s.Conditions, v1.PodInitialized); c.LastTransitionTime != earlier {
		t.Errorf("the transition time moved: %+v", c)
	}
	if find(s.Conditions, "foreign") == nil {
		t.Error("another's condition is gone")
	}
	pod.Status.Conditions = append(pod.Status.Conditions, v1.PodCondition{Type: "gate", Status: v1.ConditionTrue})
	if c := find(Generate(in).Conditions, v1.PodReady); c.Status != v1.ConditionTrue {
		t.Errorf("with the gate open: %+v", c)
	}
}

func TestEvictedPodsTellOfTheDisruption(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "a"}}}}
	pod.Status.Conditions = []v1.PodCondition{{Type: v1.DisruptionTarget, Status: v1.ConditionFalse, Reason: "Stale"}}
	in := Input{Pod: pod, Runtime: state("a=137"), Probes: probes{}, Now: now, Terminating: true, Terminated: true,
		Failed: &Waiting{Reason: "Evicted", Message: "no memory"}, Evicted: true}
	s := Generate(in)
	if s.Phase != v1.PodFailed || s.Reason != "Evicted" || s.Message != "no memory" {
		t.Errorf("the pod is %s: %s, %s", s.Phase, s.Reason, s.Message)
	}
	var told []v1.PodCondition
	for _, c := range s.Conditions {
		if c.Type == v1.DisruptionTarget {
			told = append(told, c)
		}
	}
	if len(told) != 1 || told[0].Status != v1.ConditionTrue || told[0].Reason != v1.PodReasonTerminationByKubelet || told[0].Message != "no memory" {
		t.Errorf("conditions: %+v", told)
	}
}

func TestAddresses(t *testing.T) {
	host := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "a"}}}}
	in := Input{Pod: pod, Runtime: state("a=running"), Probes: probes{}, HostIPs: host, Now: now}
	if s := Generate(in); s.PodIP != "10.0.0.1" || len(s.PodIPs) != 2 || s.HostIP != "192.0.2.1" || len(s.HostIPs) != 2 {
		t.Errorf("got %v %v", s.PodIPs, s.HostIPs)
	}
	pod.Spec.HostNetwork = true
	if s := Generate(in); s.PodIP != "192.0.2.1" || len(s.PodIPs) != 2 {
		t.Errorf("in the host's network: %v", s.PodIPs)
	}
	pod.Spec.HostNetwork = false
	pod.Status.PodIP, pod.Status.PodIPs = "10.0.0.9", []v1.PodIP{{IP: "10.0.0.9"}}
	in.Runtime, in.Terminated = &runtime.Pod{}, true
	if s := Generate(in); s.PodIP != "10.0.0.9" {
		t.Errorf("a pod that ended lost its address: %v", s.PodIPs)
	}
}

// TestPatch shows that a patch turns one status into the other, and holds
// nothing that did not change.
func TestPatch(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "a"}, {Name: "b"}}}}
	pod.UID = "uid"
	in := Input{Pod: pod, Runtime: state("a=running"), Probes: probes{}, Now: now}
	before := Generate(in)
	pod.Status = before
	in.Runtime = state("a=running b=running")
	after := Generate(in)
	data, err := Patch(pod, after)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(data); !strings.Contains(text, `"uid":"uid"`) || strings.Contains(text, "PodScheduled\",\"status") {
		t.Errorf("patch %s", text)
	}
	original, err := json.Marshal(v1.Pod{Status: before})
	if err != nil {
		t.Fatal(err)
	}
	merged, err := strategicpatch.StrategicMergePatch(original, data, v1.Pod{})
	if err != nil {
		t.Fatal(err)
	}
	got := v1.Pod{}
	if err := json.Unmarshal(merged, &got); err != nil {
		t.Fatal(err)
	}
	// Times lose their zone on the way.
	a, _ := json.Marshal(got.Status)
	b, _ := json.Marshal(after)
	if !reflect.DeepEqual(a, b) {
		t.Errorf("patched to\n%s\nwant\n%s", a, b)
	}
}
