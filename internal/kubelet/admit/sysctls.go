package admit

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"
)

// safeSysctls concern the pod alone, on every kernel that nodes run (see "Using
// sysctls in a Kubernetes Cluster").
var safeSysctls = []string{
	"kernel.shm_rmid_forced",
	"net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

// Sysctls are the kernel parameters that pods may set, and the kernel's
// namespaces that they are of.
type Sysctls struct {
	names, prefixes map[string]sysctl.Namespace
}

// AllowSysctls returns the safe parameters and those of unsafe, where a * at the
// end stands for any end. Parameters of the whole machine are an error.
func AllowSysctls(unsafe []string) (*Sysctls, error) {
	s := &Sysctls{map[string]sysctl.Namespace{}, map[string]sysctl.Namespace{}}
	for _, name := range slices.Concat(unsafe, safeSysctls) {
		namespace, name, prefix := sysctl.GetNamespace(name)
		switch {
		case namespace == sysctl.UnknownNamespace:
			return nil, fmt.Errorf("sysctl %q is not one of a pod: allow only those of kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.*", name)
		case prefix:
			s.prefixes[name] = namespace
		default:
			s.names[name] = namespace
		}
	}
	return s, nil
}

// Check returns nil if pod may set the parameters that it asks for.
func (s *Sysctls) Check(pod *v1.Pod) *Rejection {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, asked := range pod.Spec.SecurityContext.Sysctls {
		name := sysctl.NormalizeName(asked.Name)
		namespace, ok := s.find(name)
		switch {
		case !ok:
			return &Rejection{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", name)}
		case namespace == sysctl.IPCNamespace && pod.Spec.HostIPC, namespace == sysctl.NetNamespace && pod.Spec.HostNetwork:
			return &Rejection{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowed with host %s enabled", name, namespace)}
		}
	}
	return nil
}

func (s *Sysctls) find(name string) (sysctl.Namespace, bool) {
	if namespace, ok := s.names[name]; ok {
		return namespace, true
	}
	for prefix, namespace := range s.prefixes {
		if strings.HasPrefix(name, prefix) {
			return namespace, true
		}
	}
	return "", false
}
