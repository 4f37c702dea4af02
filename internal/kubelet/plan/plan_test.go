package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"skiff/internal/kubelet/runtime"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// steps writes actions as words, in order.
func steps(a Actions) string {
	var out []string
	for _, k := range a.Kill {
		out = append(out, fmt.Sprintf("kill %s#%d", k.Container.Name, k.Container.Attempt))
	}
	for _, r := range a.Resize {
		out = append(out, fmt.Sprintf("resize %s#%d", r.Container.Name, r.Running.Attempt))
	}
	for _, c := range a.Remove {
		out = append(out, fmt.Sprintf("remove %s#%d", c.Name, c.Attempt))
	}
	if a.CreateSandbox {
		out = append(out, fmt.Sprintf("sandbox#%d", a.SandboxAttempt))
	}
	for _, s := range a.Start {
		word := fmt.Sprintf("start %s#%d", s.Container.Name, s.Attempt)
		if s.Life > 0 {
			word += fmt.Sprintf("/%d", s.Life)
		}
		out = append(out, word)
	}
	waits := make([]string, 0, len(a.BackingOff))
	for name, until := range a.BackingOff {
		waits = append(waits, fmt.Sprintf("wait %s %s", name, until.Sub(now)))
	}
	slices.Sort(waits)
	out = append(out, waits...)
	if a.Finished {
		out = append(out, "finished")
	}
	return strings.Join(out, ", ")
}

func container(name string, edit ...func(*v1.Container)) v1.Container {
	c := v1.Container{Name: name, Image: "image"}
	for _, e := range edit {
		e(&c)
	}
	return c
}

func sidecar(c *v1.Container) {
	always := v1.ContainerRestartPolicyAlways
	c.RestartPolicy = &always
}

func never(c *v1.Container) {
	policy := v1.ContainerRestartPolicyNever
	c.RestartPolicy = &policy
}

// state builds the runtime's pod from words: "sandbox" or "dead-sandbox"
// begin a sandbox, older ones first; then containers as name=state, a number
// being the code of an exit 5 s ago; a slash goes before the container's life.
func state(words string) *runtime.Pod {
	p := &runtime.Pod{}
	attempts := map[string]uint32{}
	for i, word := range strings.Fields(words) {
		at := now.Add(-time.Hour + time.Duration(i)*time.Second)
		switch word {
		case "sandbox", "dead-sandbox":
			s := &runtime.Sandbox{ID: fmt.Sprintf("s%d", i), Attempt: uint32(len(p.Sandboxes)), Ready: word == "sandbox", CreatedAt: at}
			p.Sandboxes = append([]*runtime.Sandbox{s}, p.Sandboxes...)
			continue
		}
		name, what, _ := strings.Cut(word, "=")
		what, life, _ := strings.Cut(what, "/")
		c := &runtime.Container{ID: fmt.Sprintf("%s-%d", name, attempts[name]), Name: name, Attempt: attempts[name], CreatedAt: at}
		attempts[name]++
		fmt.Sscan(life, &c.Life)
		if len(p.Sandboxes) > 0 {
			c.SandboxID = p.Sandboxes[0].ID
		}
		c.Hash = runtime.HashContainer(&v1.Container{Name: name, Image: "image"})
		switch what {
		case "running":
			c.State = runtime.Running
		case "changed":
			c.State, c.Hash = runtime.Running, "other"
		case "created":
			c.State = runtime.Created
		case "unknown":
			c.State = runtime.Unknown
		default:
			c.State = runtime.Exited
			c.FinishedAt = now.Add(-5 * time.Second)
			fmt.Sscan(what, &c.ExitCode)
		}
		p.Containers = append([]*runtime.Container{c}, p.Containers...)
	}
	return p
}

func TestNext(t *testing.T) {
	app := []v1.Container{container("a"), container("b")}
	one := []v1.Container{container("a")}
	inits := []v1.Container{container("i"), container("j")}
	side := []v1.Container{container("i"), container("s", sidecar), container("j")}
	healthy := map[string]Health{}
	tests := []struct {
		name   string
		policy v1.RestartPolicy
		init   []v1.Container
		app    []v1.Container
		state  string
		health map[string]Health
		want   string
	}{
		{"new pod", v1.RestartPolicyAlways, nil, app, "", healthy, "sandbox#0"},
		{"sandbox ready", v1.RestartPolicyAlways, nil, app, "sandbox", healthy, "start a#0, start b#0"},
		{"all run", v1.RestartPolicyAlways, nil, app, "sandbox a=running b=running", healthy, ""},
		{"one is missing", v1.RestartPolicyAlways, nil, app, "sandbox a=running", healthy, "start b#0"},
		{"one ended", v1.RestartPolicyAlways, nil, app, "sandbox a=running b=0", healthy, "start b#1"},
		{"restart count goes on", v1.RestartPolicyAlways, nil, one, "sandbox a=1 a=1 a=1", healthy, "start a#3"},
		{"created but not started", v1.RestartPolicyAlways, nil, one, "sandbox a=created", healthy, "remove a#0"},
		{"unknown state", v1.RestartPolicyAlways, nil, one, "sandbox a=unknown", healthy, "kill a#0"},
		{"image changed", v1.RestartPolicyAlways, nil, app, "sandbox a=changed b=running", healthy, "kill a#0"},

		{"on failure, failed", v1.RestartPolicyOnFailure, nil, app, "sandbox a=1 b=0", healthy, "start a#1"},
		{"on failure, succeeded", v1.RestartPolicyOnFailure, nil, app, "sandbox a=0 b=0", healthy, "finished"},
		{"never, failed", v1.RestartPolicyNever, nil, app, "sandbox a=1 b=0", healthy, "finished"},
		{"never, one still runs", v1.RestartPolicyNever, nil, app, "sandbox a=1 b=running", healthy, ""},
		{"never, not yet started", v1.RestartPolicyNever, nil, app, "sandbox a=0", healthy, "start b#0"},
		{"container's own policy", v1.RestartPolicyAlways, nil, []v1.Container{container("a", never)}, "sandbox a=1", healthy, "finished"},

		{"first init container", v1.RestartPolicyAlways, inits, one, "sandbox", healthy, "start i#0"},
		{"init container runs", v1.RestartPolicyAlways, inits, one, "sandbox i=running", healthy, ""},
		{"second init container", v1.RestartPolicyAlways, inits, one, "sandbox i=0", healthy, "start j#0"},
		{"init containers done", v1.RestartPolicyAlways, inits, one, "sandbox i=0 j=0", healthy, "start a#0"},
		{"init container failed", v1.RestartPolicyAlways, inits, one, "sandbox i=1", healthy, "start i#1"},
		{"init container failed for good", v1.RestartPolicyNever, inits, one, "sandbox i=1", healthy, "finished"},
		{"init containers are not repeated", v1.RestartPolicyAlways, inits, one, "sandbox i=0 j=0 a=1", healthy, "start a#1"},
		{"init containers removed meanwhile", v1.RestartPolicyAlways, inits, one, "sandbox a=running", healthy, ""},

		{"sidecar after init container", v1.RestartPolicyAlways, side, one, "sandbox i=0", healthy, "start s#0"},
		{"sidecar gates on startup", v1.RestartPolicyAlways, side, one, "sandbox i=0 s=running", map[string]Health{"s-0": {}}, ""},
		{"sidecar started", v1.RestartPolicyAlways, side, one, "sandbox i=0 s=running", map[string]Health{"s-0": {Started: true}}, "start j#0"},
		{"sidecar ended while initializing", v1.RestartPolicyAlways, side, one, "sandbox i=0 s=0 j=0", healthy, "start s#1"},
		{"sidecar restarts even with never", v1.RestartPolicyNever, side, one, "sandbox i=0 s=0 j=0 a=running", healthy, "start s#1"},
		{"sidecar fails its liveness probe", v1.RestartPolicyAlways, side, one, "sandbox i=0 s=running j=0 a=running",
			map[string]Health{"s-0": {Started: true, LivenessFailed: true}, "a-0": {Started: true}}, "kill s#0"},
		{"pod done, sidecar runs", v1.RestartPolicyNever, side, one, "sandbox i=0 s=running j=0 a=0", healthy, "finished"},
		{"pod done, sidecar ended", v1.RestartPolicyNever, side, one, "sandbox i=0 s=1 j=0 a=0", healthy, "finished"},

		{"liveness failed", v1.RestartPolicyAlways, nil, app, "sandbox a=running b=running",
			map[string]Health{"a-0": {Started: true, LivenessFailed: true}}, "kill a#0"},
		{"startup failed", v1.RestartPolicyAlways, nil, one, "sandbox a=running", map[string]Health{"a-0": {StartupFailed: true}}, "kill a#0"},

		{"sandbox died", v1.RestartPolicyAlways, nil, one, "dead-sandbox a=running", healthy, "kill a#0, sandbox#1"},
		{"sandbox died, everything again", v1.RestartPolicyAlways, inits, one, "dead-sandbox i=0 j=0 a=137 sandbox", healthy, "start i#1"},
		{"sandbox died, pod was done", v1.RestartPolicyOnFailure, nil, one, "dead-sandbox a=0", healthy, "finished"},
		{"sandbox died, never", v1.RestartPolicyNever, nil, one, "dead-sandbox a=1", healthy, "finished"},
		{"sandbox died before anything ran", v1.RestartPolicyNever, nil, one, "dead-sandbox", healthy, "sandbox#1"},
		{"what ended in an old sandbox stays ended", v1.RestartPolicyOnFailure, nil, app, "dead-sandbox a=0 b=1 sandbox", healthy, "start b#1"},
		{"container of an old sandbox still runs", v1.RestartPolicyAlways, nil, app, "dead-sandbox a=running sandbox b=running", healthy, "kill a#0, start a#1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			pod := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: test.policy, InitContainers: test.init, Containers: test.app}}
			got := steps(Next(Input{
				Pod: pod, Runtime: state(test.state), Backoff: &Backoff{}, Now: now,
				Health: func(id string) Health {
					if h, ok := test.health[id]; ok {
						return h
					}
					return Health{Started: true}
				},
			}))
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestResize(t *testing.T) {
	restartForMemory := func(c *v1.Container) {
		c.ResizePolicy = []v1.ContainerResizePolicy{
			{ResourceName: v1.ResourceCPU, RestartPolicy: v1.NotRequired}, {ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer},
		}
	}
	asking := func(c *v1.Container) {
		c.Resources.Requests = v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Mi")}
	}
	for _, test := range []struct {
		name        string
		c           v1.Container
		cpu, memory bool
		want        string
	}{
		{"another request", container("a", asking), false, false, ""},
		{"another request restarts", container("a", restartForMemory, asking), false, false, "kill a#0"},
		{"nothing", container("a"), false, false, ""},
		{"cpu", container("a"), true, false, "resize a#0"},
		{"memory", container("a"), false, true, "resize a#0"},
		{"cpu, memory would restart", container("a", restartForMemory), true, false, "resize a#0"},
		{"memory restarts", container("a", restartForMemory), true, true, "kill a#0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := steps(Next(Input{
				Pod: &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{test.c}}}, Runtime: state("sandbox a=running"), Backoff: &Backoff{}, Now: now,
				Health:  func(string) Health { return Health{Started: true} },
				Resized: func(*v1.Container, *runtime.Container) (cpu, memory bool) { return test.cpu, test.memory },
			}))
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestEphemeral(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{container("a")}, EphemeralContainers: []v1.EphemeralContainer{
		{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "debug"}, TargetContainerName: "a"},
	}}}
	in := Input{Pod: pod, Backoff: &Backoff{}, Now: now, Health: func(string) Health { return Health{Started: true} }}
	in.Runtime = state("sandbox a=running")
	a := Next(in)
	if got := steps(a); got != "start debug#0" || a.Start[0].Target != "a" || a.Start[0].Kind != Ephemeral {
		t.Errorf("got %q with target %q", got, a.Start[0].Target)
	}
	in.Runtime = state("sandbox a=running debug=1")
	if got := steps(Next(in)); got != "" {
		t.Errorf("an ephemeral container that ended: %q", got)
	}
}

func TestRestartRules(t *testing.T) {
	rule := func(op v1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) v1.Container {
		return container("a", never, func(c *v1.Container) {
			c.RestartPolicyRules = []v1.ContainerRestartRule{{
				Action: v1.ContainerRestartRuleActionRestart, ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes},
			}}
		})
	}
	in := rule(v1.ContainerRestartRuleOnExitCodesOpIn, 42)
	notIn := rule(v1.ContainerRestartRuleOnExitCodesOpNotIn, 42)
	for _, test := range []struct {
		c    v1.Container
		code int32
		want bool
	}{{in, 42, true}, {in, 1, false}, {notIn, 42, false}, {notIn, 1, true}} {
		if got := ShouldRestart(&v1.Pod{}, &test.c, test.code); got != test.want {
			t.Errorf("%v with exit code %d: %v", test.c.RestartPolicyRules[0].ExitCodes, test.code, got)
		}
	}
}

func TestBackoff(t *testing.T) {
	var b Backoff
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{container("a")}}}
	next := func(finished, at time.Time) Actions {
		s := state("sandbox a=1")
		s.Containers[0].FinishedAt = finished
		return Next(Input{Pod: pod, Runtime: s, Backoff: &b, Now: at, Health: func(string) Health { return Health{} }})
	}
	if a := next(now, now); len(a.Start) != 1 {
		t.Fatal("the first restart waits")
	}
	at := now
	for i, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		b.Restarted("a", at, at)
		a := next(at, at)
		if len(a.Start) != 0 || a.BackingOff["a"] != at.Add(want*time.Second) || a.Wake != at.Add(want*time.Second) {
			t.Fatalf("after restart %d: %s until %s", i+1, steps(a), a.Wake.Sub(at))
		}
		at = at.Add(want * time.Second)
		if a := next(at.Add(-want*time.Second), at); len(a.Start) != 1 {
			t.Fatalf("after the wait of restart %d: %s", i+1, steps(a))
		}
	}
	b.Restarted("a", at, at)
	if a := next(at.Add(11*time.Minute), at.Add(11*time.Minute)); len(a.Start) != 1 {
		t.Error("a container that ran for long waits")
	}
	b.Restarted("a", at.Add(11*time.Minute), at.Add(11*time.Minute))
	if d := b.Delay("a"); d != 10*time.Second {
		t.Errorf("the delay was not forgotten: %s", d)
	}
}

func TestWaves(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{
		InitContainers: []v1.Container{container("s1", sidecar), container("i"), container("s2", sidecar)},
		Containers:     []v1.Container{container("a"), container("b")},
	}}
	var got []string
	for _, wave := range Waves(pod, state("sandbox s1=running i=0 s2=running a=running b=1 debug=running")) {
		var names []string
		for _, c := range wave {
			names = append(names, c.Name)
		}
		slices.Sort(names)
		got = append(got, strings.Join(names, "+"))
	}
	if want := "a+debug, s2, s1"; strings.Join(got, ", ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}
