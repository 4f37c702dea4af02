package server

import (
	"net/url"
	"reflect"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"skiff/internal/kubelet/node"
	"skiff/internal/kubelet/runtime"
)

func TestSubresources(t *testing.T) {
	for path, want := range map[string]string{
		"/pods": "pods proxy", "/runningpods/": "pods proxy", "/podsx": "proxy", "/stats/summary": "stats", "/metrics": "metrics",
		"/metrics/resource": "metrics", "/logs/x": "log", "/containerLogs/a/b/c": "proxy", "/exec/a/b/c": "proxy",
		"/healthz": "healthz proxy", "/configz": "configz proxy", "/": "proxy",
	} {
		if got := strings.Join(Subresources(path), " "); got != want {
			t.Errorf("%s needs %q, want %q", path, got, want)
		}
	}
}

func TestLogOptions(t *testing.T) {
	for query, want := range map[string]string{
		"":                               "",
		"follow=true&tailLines=10":       "",
		"tailLines=-1":                   "tailLines",
		"tailLines=x":                    "tailLines",
		"limitBytes=0":                   "limitBytes",
		"sinceSeconds=0":                 "sinceSeconds",
		"sinceTime=yesterday":            "sinceTime",
		"sinceTime=2026-01-01T00:00:00Z": "",
		"follow=maybe":                   "follow",
		"sinceTime=2026-01-01T00:00:00Z&sinceSeconds=1": "at most one of",
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		_, err = logOptions(q)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", query, err, want)
		}
	}
}

func TestLogSource(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "a"}, {Name: "b"}}}}
	pod.Name = "p"
	pod.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "b", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ContainerCreating"}}}}
	running := &runtime.Container{ID: "2", Name: "a", State: runtime.Running}
	dead := &runtime.Container{ID: "1", Name: "a", State: runtime.Exited}
	both := &runtime.Pod{Containers: []*runtime.Container{running, dead}}
	for _, test := range []struct {
		name     string
		state    *runtime.Pod
		previous bool
		want     string
	}{
		{"a", both, false, "2"},
		{"a", both, true, "1"},
		{"a", &runtime.Pod{Containers: both.Containers[:1]}, true, `previous terminated container "a" in pod "p" not found`},
		{"b", both, false, `container "b" in pod "p" is waiting to start: ContainerCreating`},
		{"c", both, false, `container "c" not found in pod "p"`},
	} {
		c, err := logSource(pod, test.state, test.name, test.previous)
		got := ""
		if c != nil {
			got = c.ID
		} else if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s, previous %v: %s, want %s", test.name, test.previous, got, test.want)
		}
	}
}

func TestStreamOf(t *testing.T) {
	for query, want := range map[string]*stream{
		"input=1&output=1&error=1":                    {stdin: true, stdout: true, stderr: true},
		"stdin=true&stdout=true&tty=true&stderr=true": {stdin: true, stdout: true, tty: true},
		"tty=1": nil,
		"":      nil,
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := streamOf(q)
		if (want == nil) != (err != nil) || want != nil && !reflect.DeepEqual(got, *want) {
			t.Errorf("%q: %+v, %v", query, got, err)
		}
	}
}

func TestProcFiles(t *testing.T) {
	used, boot, err := procStat()
	if err != nil || used == 0 || boot.IsZero() {
		t.Errorf("cpu %d since %v, %v", used, boot, err)
	}
	memory, err := node.Meminfo()
	if err != nil || memory["MemTotal"] < memory["MemFree"] || memory["MemTotal"] == 0 {
		t.Errorf("memory %d, %v", memory["MemTotal"], err)
	}
}
