package plan

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

// restartsOn42 restarts all containers when this one ends with 42.
func restartsOn42(c *v1.Container) {
	c.RestartPolicyRules = []v1.ContainerRestartRule{{
		Action:    v1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
	}}
}

func TestRestartOfAll(t *testing.T) {
	init := []v1.Container{container("i"), container("s", sidecar)}
	app := []v1.Container{container("a", never, restartsOn42), container("b")}
	started := map[string]Health{"s-0": {Started: true}, "s-1": {Started: true}}
	for _, test := range []struct {
		name, state, want string
		pending           bool
	}{
		{"nobody asks for it", "sandbox i=0 s=running a=running b=running", "", false},
		{"another exit code", "sandbox i=0 s=running a=41 b=running", "", false},
		{"the others end first", "sandbox i=0 s=running a=42 b=running", "kill b#0, kill s#0", true},
		{"one still ends", "sandbox i=0 s=137 a=42 b=running", "kill b#0", true},
		{"then all begin anew", "sandbox i=0 s=137 a=42 b=137", "start i#1/1", true},
		{"in their order", "sandbox i=0 s=137 a=42 b=137 i=0/1", "start s#1/1", false},
		{"the containers of the pod last", "sandbox i=0 s=137 a=42 b=137 i=0/1 s=running/1", "start a#1/1, start b#1/1", false},
		{"one after the other", "sandbox i=0 s=137 a=42 b=137 i=0/1 s=running/1 b=running/1", "start a#1/1", false},
		{"all run again", "sandbox i=0 s=137 a=42 b=137 i=0/1 s=running/1 a=running/1 b=running/1", "", false},
		{"what asked for it is forgotten", "sandbox i=0/1 s=running/1 a=running/1 b=137", "start b#1/1", false},
		{"and end as they please", "sandbox i=0 s=137 a=42 b=137 i=0/1 s=running/1 a=1/1 b=0/1", "finished", false},
		{"or all once more", "sandbox i=0 s=137 a=42 b=137 i=0/1 s=137/1 a=42/1 b=137/1", "start i#2/2", true},
		{"one that was being started meanwhile", "sandbox a=42 i=0 s=running b=running", "kill b#0, kill s#0", true},
		{"in another sandbox", "dead-sandbox i=0 s=137 a=42 b=137", "sandbox#1", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, InitContainers: init, Containers: app}}
			s := state(test.state)
			got := steps(Next(Input{Pod: pod, Runtime: s, Backoff: &Backoff{}, Now: now, Health: func(id string) Health { return started[id] }}))
			if got != test.want {
				t.Errorf("%s: %q, want %q", test.state, got, test.want)
			}
			if got := RestartOf(pod, s).Pending(s); got != test.pending {
				t.Errorf("pending: %v", got)
			}
		})
	}
}

// TestRestartByAny is about a rule that the killed containers' exit codes match
// as well.
func TestRestartByAny(t *testing.T) {
	any := func(c *v1.Container) {
		restartsOn42(c)
		c.RestartPolicyRules[0].ExitCodes = &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpNotIn, Values: []int32{0}}
	}
	pod := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{container("a", any), container("b", any)}}}
	for words, want := range map[string]string{
		"sandbox a=1 b=running":               "kill b#0",
		"sandbox a=1 b=137":                   "start a#1/1, start b#1/1",
		"sandbox a=1 b=137 a=running/1":       "start b#1/1",
		"sandbox a=1 b=137 a=running/1 b=0/1": "",
	} {
		if got := steps(Next(Input{Pod: pod, Runtime: state(words), Backoff: &Backoff{}, Now: now, Health: func(string) Health { return Health{} }})); got != want {
			t.Errorf("%s: %q, want %q", words, got, want)
		}
	}
}
