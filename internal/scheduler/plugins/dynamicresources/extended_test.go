package dynamicresources

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

// TestRequests has containers as "name=amount"; those of init containers come
// first, and sidecars end with a plus.
func TestRequests(t *testing.T) {
	for _, test := range []struct{ init, containers, requests, mappings string }{
		{"", "a=2 b=1", "container-0-request-1:2 container-1-request-1:1", "a:container-0-request-1 b:container-1-request-1"},
		// An init container uses what comes after it.
		{"i=1", "a=2", "container-1-request-1:2", "a:container-1-request-1 i:container-1-request-1"},
		{"i=3", "a=2 b=2", "container-1-request-1:2 container-2-request-1:2", "a:container-1-request-1 b:container-2-request-1 i:container-1-request-1 i:container-2-request-1"},
		// What is missing is shared by all that need it.
		{"i=4 j=3", "a=1", "container-0-request-1:3 container-2-request-1:1",
			"a:container-2-request-1 i:container-2-request-1 i:container-0-request-1 j:container-2-request-1 j:container-0-request-1"},
		{"i=2 j=3", "a=0", "container-1-request-1:3", "i:container-1-request-1 j:container-1-request-1"},
		// A sidecar keeps its own, and those before it may use them.
		{"i=1 s=2+ j=1", "a=1", "container-1-request-1:2 container-3-request-1:1", "s:container-1-request-1 a:container-3-request-1 i:container-1-request-1 j:container-3-request-1"},
	} {
		pod := &corev1.Pod{}
		parse := func(text string) (out []corev1.Container) {
			for _, field := range strings.Fields(text) {
				name, amount, _ := strings.Cut(strings.TrimSuffix(field, "+"), "=")
				c := corev1.Container{Name: name}
				c.Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("1"), "example.com/gpu": resource.MustParse(amount)}
				if strings.HasSuffix(field, "+") {
					c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
				}
				out = append(out, c)
			}
			return out
		}
		pod.Spec.InitContainers, pod.Spec.Containers = parse(test.init), parse(test.containers)
		got, mappings := requests(pod, map[corev1.ResourceName]string{"example.com/gpu": "gpu"})
		var requested, mapped []string
		for _, r := range got {
			requested = append(requested, fmt.Sprintf("%s:%d", r.Name, r.Exactly.Count))
		}
		for _, m := range mappings {
			mapped = append(mapped, m.ContainerName+":"+m.RequestName)
		}
		if r, m := strings.Join(requested, " "), strings.Join(mapped, " "); r != test.requests || m != test.mappings {
			t.Errorf("%s | %s:\n  requests %s\n  want     %s\n  mappings %s\n  want     %s", test.init, test.containers, r, test.requests, m, test.mappings)
		}
	}
}
