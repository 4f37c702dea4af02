package podspec

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// maxHostname is the longest host name Linux takes, in bytes.
const maxHostname = 63

// Hostname returns the pod's host name and domain; the domain is empty for a
// pod without a subdomain.
func Hostname(pod *v1.Pod, clusterDomain string) (name, domain string) {
	if o := pod.Spec.HostnameOverride; o != nil && *o != "" {
		return *o, ""
	}
	name = pod.Spec.Hostname
	if name == "" {
		name = pod.Name
		if len(name) > maxHostname {
			name = strings.TrimRight(name[:maxHostname], "-.")
		}
	}
	if pod.Spec.Subdomain != "" {
		domain = fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, clusterDomain)
	}
	return name, domain
}

// Header lines of a hosts file that the kubelet writes; programs look for
// them.
const (
	managedHeader     = "# Kubernetes-managed hosts file.\n"
	managedHostHeader = "# Kubernetes-managed hosts file (host network).\n"
	aliasHeader       = "\n# Entries added by HostAliases.\n"
	localEntries      = "127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\n" +
		"fe00::\tip6-mcastprefix\n" +
		"fe00::1\tip6-allnodes\n" +
		"fe00::2\tip6-allrouters\n"
)

// HostsFile returns the content of a pod's /etc/hosts. hostFile is the node's
// own, which pods in the host's network see.
func HostsFile(pod *v1.Pod, ips []string, clusterDomain, hostFile string) string {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString(managedHostHeader)
		b.WriteString(hostFile)
	} else {
		b.WriteString(managedHeader)
		b.WriteString(localEntries)
		name, domain := Hostname(pod, clusterDomain)
		for _, ip := range ips {
			if domain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, name, domain, name)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, name)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString(aliasHeader)
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.String()
}
