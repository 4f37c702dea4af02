//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const resizable = `
apiVersion: v1
kind: Pod
metadata:
  name: resizable
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: one
    image: skiff.local/busybox:1
    command: [sleep, "3600"]
    resources:
      requests: {cpu: 100m, memory: 64Mi}
      limits: {cpu: 200m, memory: 128Mi}
  - name: two
    image: skiff.local/busybox:1
    command: [sleep, "3600"]
    resizePolicy:
    - {resourceName: cpu, restartPolicy: NotRequired}
    - {resourceName: memory, restartPolicy: RestartContainer}
    resources:
      requests: {cpu: 100m, memory: 64Mi}
      limits: {cpu: 200m, memory: 128Mi}
`

// limits prints a container's memory limit and CPU quota, as it sees them on
// either version of cgroups.
const limits = "cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes 2>/dev/null; (cat cpu.max cpu/cpu.cfs_quota_us 2>/dev/null) | cut -d' ' -f1"

// testResize changes what running containers have (KEP-1287).
func (c *testCluster) testResize() {
	c.apply(resizable)
	c.kubectl("wait", "pod/resizable", "--for=condition=Ready", "--timeout=60s")
	resize := func(container, requests, limits string) {
		c.kubectl("patch", "pod", "resizable", "--subresource", "resize", "--patch", fmt.Sprintf(
			`{"spec":{"containers":[{"name":%q,"resources":{"requests":%s,"limits":%s}}]}}`, container, requests, limits))
	}
	// has waits until a container has what it was given, and its status says so.
	has := func(index int, memory, quota string, restarts int32) {
		c.Helper()
		c.eventually(fmt.Sprintf("container %d has %s bytes and a quota of %s", index, memory, quota), func(ctx context.Context) error {
			p, err := c.client.CoreV1().Pods("default").Get(ctx, "resizable", metav1.GetOptions{})
			if err != nil {
				return err
			}
			s := p.Status.ContainerStatuses[index]
			if s.State.Running == nil || s.RestartCount != restarts {
				return fmt.Errorf("it was restarted %d times: %+v", s.RestartCount, s.State)
			}
			if got := fmt.Sprint(s.Resources.Limits.Memory().Value()); got != memory {
				return fmt.Errorf("the status says %s bytes", got)
			}
			if got := s.AllocatedResources.Cpu(); got.Cmp(*p.Spec.Containers[index].Resources.Requests.Cpu()) != 0 {
				return fmt.Errorf("%s is allocated", got)
			}
			for _, condition := range p.Status.Conditions {
				if condition.Type == corev1.PodResizePending || condition.Type == corev1.PodResizeInProgress {
					return fmt.Errorf("the resize goes on: %+v", condition)
				}
			}
			out, err := c.try("kubectl", "exec", "resizable", "-c", p.Spec.Containers[index].Name, "--", "sh", "-c", limits)
			if err == nil && out != memory+"\n"+quota+"\n" {
				err = fmt.Errorf("the container sees %q", out)
			}
			return err
		})
	}
	has(0, "134217728", "20000", 0)

	resize("one", `{"cpu":"150m","memory":"80Mi"}`, `{"cpu":"300m","memory":"160Mi"}`)
	has(0, "167772160", "30000", 0)
	resize("one", `{"cpu":"50m","memory":"32Mi"}`, `{"cpu":"100m","memory":"64Mi"}`)
	has(0, "67108864", "10000", 0)
	// Its memory changes with a restart only.
	resize("two", `{"cpu":"150m"}`, `{"cpu":"300m"}`)
	has(1, "134217728", "30000", 0)
	resize("two", `{"memory":"96Mi"}`, `{"memory":"192Mi"}`)
	has(1, "201326592", "30000", 1)

	// What the node will never have is refused, and nothing changes.
	out, err := c.command(c.Context(), nil, "kubectl", "patch", "pod", "resizable", "--subresource", "resize", "--patch",
		`{"spec":{"containers":[{"name":"one","resources":{"requests":{"cpu":"1000"},"limits":{"cpu":"1000"}}}]}}`).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "node didn't have enough allocatable resources: cpu, requested: 1000150, allocatable: ") {
		c.Errorf("a pod of 1000 processors: %s, %v", out, err)
	}
	has(0, "67108864", "10000", 0)
	c.kubectl("delete", "pod", "resizable", "--timeout=60s")
}
