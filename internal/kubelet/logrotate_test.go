package kubelet

import "testing"

func TestParseLogPath(t *testing.T) {
	for path, want := range map[string]struct {
		uid, container string
		attempt        uint32
		ok             bool
	}{
		"/var/log/pods/ns_pod_uid/c/3.log":  {"uid", "c", 3, true},
		"/var/log/pods/ns_pod_uid/c/x.log":  {},
		"/var/log/pods/ns_pod_uid/c/-1.log": {},
		"/var/log/pods/else/c/0.log":        {},
		"/var/log/pods/a_b_c_d/c/0.log":     {},
	} {
		uid, container, attempt, ok := parseLogPath(path)
		if uid != want.uid || container != want.container || attempt != want.attempt || ok != want.ok {
			t.Errorf("%s: %s %s %d %v", path, uid, container, attempt, ok)
		}
	}
}

func FuzzParseLogPath(f *testing.F) {
	f.Add("/var/log/pods/ns_pod_uid/c/3.log")
	f.Fuzz(func(t *testing.T, path string) {
		if uid, container, _, ok := parseLogPath(path); ok && container == "" {
			t.Errorf("%q: %q %q", path, uid, container)
		}
	})
}
