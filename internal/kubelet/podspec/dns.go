package podspec

import (
	"bufio"
	"io"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What resolvers take, as the Pod API documents it.
const (
	maxNameservers  = 3
	maxSearches     = 32
	maxSearchLength = 2048
)

// Cluster is what pods are told of the cluster's DNS.
type Cluster struct {
	DNS    []string
	Domain string
	// Host is the node's own resolver configuration.
	Host *cri.DNSConfig
}

// DNS returns the resolver configuration of a pod (see "DNS for Services and
// Pods": pod's DNS policy and config).
func DNS(pod *v1.Pod, cluster Cluster) *cri.DNSConfig {
	host := cluster.Host
	if host == nil {
		host = &cri.DNSConfig{}
	}
	out := &cri.DNSConfig{}
	policy := pod.Spec.DNSPolicy
	if policy == v1.DNSClusterFirst && pod.Spec.HostNetwork || policy != v1.DNSNone && len(cluster.DNS) == 0 {
		policy = v1.DNSDefault
	}
	switch policy {
	case v1.DNSNone:
	case v1.DNSDefault:
		out.Servers = slices.Clone(host.Servers)
		out.Searches = slices.Clone(host.Searches)
		out.Options = slices.Clone(host.Options)
	default:
		out.Servers = slices.Clone(cluster.DNS)
		if d := cluster.Domain; d != "" {
			out.Searches = []string{pod.Namespace + ".svc." + d, "svc." + d, d}
		}
		out.Searches = append(out.Searches, host.Searches...)
		out.Options = []string{"ndots:5"}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		out.Servers = append(out.Servers, c.Nameservers...)
		out.Searches = append(out.Searches, c.Searches...)
		out.Options = mergeOptions(out.Options, c.Options)
	}
	out.Servers = unique(out.Servers, maxNameservers)
	out.Searches = limitLength(unique(out.Searches, maxSearches))
	return out
}

func unique(list []string, most int) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) && len(out) < most {
			out = append(out, s)
		}
	}
	return out
}

func limitLength(list []string) []string {
	length := 0
	for i, s := range list {
		length += len(s) + 1
		if length-1 > maxSearchLength {
			return list[:i]
		}
	}
	return list
}

// mergeOptions adds the pod's options, which replace those of the same name.
func mergeOptions(base []string, more []v1.PodDNSConfigOption) []string {
	for _, o := range more {
		base = slices.DeleteFunc(base, func(s string) bool {
			name, _, _ := strings.Cut(s, ":")
			return name == o.Name
		})
		if o.Value != nil && *o.Value != "" {
			base = append(base, o.Name+":"+*o.Value)
			continue
		}
		base = append(base, o.Name)
	}
	return base
}

// ParseResolvConf reads a file in the format of resolv.conf(5). What it does
// not know is left out.
func ParseResolvConf(r io.Reader) (*cri.DNSConfig, error) {
	out := &cri.DNSConfig{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			out.Servers = append(out.Servers, fields[1])
		case "search":
			out.Searches = nil
			for _, s := range fields[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				out.Searches = append(out.Searches, s)
			}
		case "options":
			out.Options = fields[1:]
		}
	}
	return out, lines.Err()
}
