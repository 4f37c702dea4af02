package admit

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestSysctls(t *testing.T) {
	for _, test := range []struct {
		allowed, asked  string
		hostNet, hostIP bool
		want            string
	}{
		{"", "net.ipv4.tcp_rmem kernel.shm_rmid_forced", false, false, ""},
		{"", "net/ipv4/tcp_rmem", false, false, ""},
		{"", "kernel.msgmax", false, false, `forbidden sysctl: "kernel.msgmax" not allowlisted`},
		{"kernel.msg*", "kernel.msgmax", false, false, ""},
		{"net.core.somaxconn", "net.core.somaxconn", false, false, ""},
		{"net.core.somaxconn", "net.core.rmem_max", false, false, `forbidden sysctl: "net.core.rmem_max" not allowlisted`},
		{"", "net.ipv4.tcp_rmem", true, false, `forbidden sysctl: "net.ipv4.tcp_rmem" not allowed with host Net enabled`},
		{"kernel.msg*", "kernel.msgmax", false, true, `forbidden sysctl: "kernel.msgmax" not allowed with host IPC enabled`},
		{"", "kernel.shm_rmid_forced", true, false, ""},
	} {
		s, err := AllowSysctls(strings.Fields(test.allowed))
		if err != nil {
			t.Fatal(err)
		}
		pod := &v1.Pod{Spec: v1.PodSpec{HostNetwork: test.hostNet, HostIPC: test.hostIP, SecurityContext: &v1.PodSecurityContext{}}}
		for _, name := range strings.Fields(test.asked) {
			pod.Spec.SecurityContext.Sysctls = append(pod.Spec.SecurityContext.Sysctls, v1.Sysctl{Name: name, Value: "1"})
		}
		got := ""
		if r := s.Check(pod); r != nil {
			got = r.Message
		}
		if got != test.want {
			t.Errorf("%q with %q allowed: %q, want %q", test.asked, test.allowed, got, test.want)
		}
	}
	if _, err := AllowSysctls([]string{"vm.swappiness"}); err == nil {
		t.Error("pods may set what concerns the whole machine")
	}
}
