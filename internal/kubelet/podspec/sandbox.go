package podspec

import (
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/internal/kubelet/cgroups"
	"skiff/internal/kubelet/runtime"
)

// SandboxOptions is what a sandbox needs that its pod does not say.
type SandboxOptions struct {
	Attempt      uint32
	CgroupParent string
	LogDir       string
	Cluster      Cluster
}

// LogDir returns the directory of a pod's logs under root.
func LogDir(root, namespace, name, uid string) string {
	return filepath.Join(root, namespace+"_"+name+"_"+uid)
}

// Sandbox returns the runtime's configuration of pod's sandbox.
func Sandbox(pod *v1.Pod, o SandboxOptions) *cri.PodSandboxConfig {
	// In the host's network the host's name stands.
	hostname := ""
	if !pod.Spec.HostNetwork {
		name, domain := Hostname(pod, o.Cluster.Domain)
		hostname = name
		if isTrue(pod.Spec.SetHostnameAsFQDN) && domain != "" {
			hostname = name + "." + domain
		}
	}
	out := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{
			Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: o.Attempt,
		},
		Hostname:     hostname,
		LogDirectory: o.LogDir,
		DnsConfig:    DNS(pod, o.Cluster),
		Labels:       runtime.PodLabels(pod),
		Annotations:  pod.Annotations,
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: o.CgroupParent,
			Resources:    cgroups.SandboxResources(pod),
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions:   namespaces(pod),
				Privileged:         privileged(pod),
				Seccomp:            &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
				SupplementalGroups: groups(pod, nil),
			},
		},
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		security := out.Linux.SecurityContext
		if sc.RunAsUser != nil {
			security.RunAsUser = &cri.Int64Value{Value: *sc.RunAsUser}
			if sc.RunAsGroup != nil {
				security.RunAsGroup = &cri.Int64Value{Value: *sc.RunAsGroup}
			}
		}
		security.SelinuxOptions = selinux(sc.SELinuxOptions)
		if len(sc.Sysctls) > 0 {
			out.Linux.Sysctls = map[string]string{}
			for _, s := range sc.Sysctls {
				out.Linux.Sysctls[s.Name] = s.Value
			}
		}
	}
	if !pod.Spec.HostNetwork {
		for i := range pod.Spec.Containers {
			for _, p := range pod.Spec.Containers[i].Ports {
				out.PortMappings = append(out.PortMappings, &cri.PortMapping{
					Protocol: protocol(p.Protocol), ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP,
				})
			}
		}
	}
	return out
}

func protocol(p v1.Protocol) cri.Protocol {
	switch p {
	case v1.ProtocolUDP:
		return cri.Protocol_UDP
	case v1.ProtocolSCTP:
		return cri.Protocol_SCTP
	default:
		return cri.Protocol_TCP
	}
}

// privileged reports whether any container of the pod is.
func privileged(pod *v1.Pod) bool {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if sc := list[i].SecurityContext; sc != nil && isTrue(sc.Privileged) {
				return true
			}
		}
	}
	return false
}
