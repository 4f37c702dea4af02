//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// webPod is a pod on one node that answers with its name.
// The placeholders are its name and its node.
const webPod = `
apiVersion: v1
kind: Pod
metadata:
  name: %[1]s
  labels: {app: server}
spec:
  nodeName: %[2]s
  hostname: %[1]s
  subdomain: servers
  terminationGracePeriodSeconds: 1
  tolerations:
  - {operator: Exists, effect: NoExecute, tolerationSeconds: 1}
  containers:
  - name: web
    image: skiff.local/busybox:1
    command: [sh, -c, "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
    ports:
    - {name: http, containerPort: 8080}
    readinessProbe:
      httpGet: {path: /, port: http}
      periodSeconds: 1
---
`

const services = `
apiVersion: v1
kind: Service
metadata:
  name: all
spec:
  type: NodePort
  selector: {app: server}
  ports:
  - {name: http, port: 80, targetPort: http}
---
apiVersion: v1
kind: Service
metadata:
  name: same
spec:
  type: LoadBalancer
  sessionAffinity: ClientIP
  selector: {app: server}
  ports:
  - {port: 8090, targetPort: http}
---
apiVersion: v1
kind: Service
metadata:
  name: servers
spec:
  clusterIP: None
  selector: {app: server}
  ports:
  - {name: http, port: 8080}
---
apiVersion: v1
kind: Service
metadata:
  name: elsewhere
spec:
  type: ExternalName
  externalName: all.default.svc.cluster.local
`

// nodes is how many there are, each with a server of its own.
const nodes = 3

// TestNodes is about several nodes as one network, and about what happens to
// the pods when a node's software or the node itself goes away.
func TestNodes(t *testing.T) {
	c := start(t, "e2enodes", nodes)
	for i := 1; i <= nodes; i++ {
		c.apply(fmt.Sprintf(webPod, fmt.Sprintf("server-%d", i), c.node(i)))
	}
	c.apply(services)
	c.kubectl("wait", "pods", "--all", "--for=condition=Ready", "--timeout=60s")
	for _, sub := range []struct {
		name string
		run  func(*testCluster)
	}{
		{"pods reach pods", (*testCluster).testPodsReachPods},
		{"names", (*testCluster).testNames},
		{"services", (*testCluster).testServices},
		{"from outside", (*testCluster).testFromOutside},
		{"the API from a pod", (*testCluster).testAPIFromPod},
		{"kubectl on every node", (*testCluster).testStreams},
		{"skiff restarts and pods go on", (*testCluster).testRestart},
		{"a node fails and comes back", (*testCluster).testNodeFails},
	} {
		t.Run(sub.name, func(t *testing.T) { sub.run(c.in(t)) })
	}
}

func (c *testCluster) node(i int) string { return fmt.Sprintf("%s-%d", c.name, i) }

// exec runs a shell command in a pod.
func (c *testCluster) exec(pod, script string) (string, error) {
	out, err := c.try("kubectl", "exec", pod, "--", "sh", "-c", script)
	return strings.TrimSpace(out), err
}

// answers waits until the shell command answers as wanted, from all pods.
func (c *testCluster) answers(script, want string) {
	c.Helper()
	for i := 1; i <= nodes; i++ {
		c.eventually(fmt.Sprintf("%s in server-%d", script, i), func(context.Context) error {
			got, err := c.exec(fmt.Sprintf("server-%d", i), script)
			if err == nil && got != want {
				err = fmt.Errorf("got %q, want %q", got, want)
			}
			return err
		})
	}
}

// answersFromAll waits until a command, repeated, was answered by all servers.
func (c *testCluster) answersFromAll(pod, script string) {
	c.Helper()
	c.eventually(script+" in "+pod, func(context.Context) error {
		out, err := c.exec(pod, "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do "+script+" || exit; done")
		for i := 1; i <= nodes && err == nil; i++ {
			if !strings.Contains(out, fmt.Sprintf("server-%d", i)) {
				err = fmt.Errorf("the answers are %q", out)
			}
		}
		return err
	})
}

func (c *testCluster) testPodsReachPods() {
	for i := 1; i <= nodes; i++ {
		ip := c.pod(fmt.Sprintf("server-%d", i)).Status.PodIP
		c.answers("timeout 3 wget -qO- http://"+ip+":8080", fmt.Sprintf("server-%d", i))
	}
}

func (c *testCluster) testNames() {
	for i := 1; i <= nodes; i++ {
		name := fmt.Sprintf("server-%d", i)
		c.answers("timeout 3 wget -qO- http://"+name+".servers.default.svc.cluster.local:8080", name)
		c.answers("timeout 3 wget -qO- http://"+name+".servers:8080", name)
	}
	hosts, err := c.exec("server-1", "cat /etc/hosts; hostname -f")
	if err != nil {
		c.Fatal(err)
	}
	c.expect(hosts, "server-1.servers.default.svc.cluster.local")
	c.answersFromAll("server-2", "timeout 3 wget -qO- http://elsewhere")
}

func (c *testCluster) testServices() {
	for i := 1; i <= 2; i++ {
		pod := fmt.Sprintf("server-%d", i)
		c.answersFromAll(pod, "timeout 3 wget -qO- http://all")
		first, err := c.exec(pod, "timeout 3 wget -qO- http://same:8090")
		if err != nil {
			c.Fatal(err)
		}
		all, err := c.exec(pod, "for i in 1 2 3 4 5 6 7 8 9 10; do timeout 3 wget -qO- http://same:8090; done | sort -u")
		if err != nil || all != first {
			c.Errorf("a client was sent to %q first and then to %q, %v", first, all, err)
		}
	}
}

func (c *testCluster) testFromOutside() {
	all, err := c.client.CoreV1().Services("default").Get(c.Context(), "all", metav1.GetOptions{})
	if err != nil {
		c.Fatal(err)
	}
	list, err := c.client.CoreV1().Nodes().List(c.Context(), metav1.ListOptions{})
	if err != nil {
		c.Fatal(err)
	}
	for _, n := range list.Items {
		address := n.Status.Addresses[0].Address
		for _, port := range []int32{all.Spec.Ports[0].NodePort, 8090} {
			c.eventually(fmt.Sprintf("port %d of %s", port, n.Name), func(context.Context) error {
				text, err := fetch(fmt.Sprintf("http://%s:%d/", address, port))
				if err == nil && !strings.HasPrefix(text, "server-") {
					err = fmt.Errorf("the answer is %q", text)
				}
				return err
			})
		}
	}
}

func (c *testCluster) testAPIFromPod() {
	c.answers(`[ -s /var/run/secrets/kubernetes.io/serviceaccount/token ] && nc -w 3 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null && nc -w 3 kubernetes.default 443 </dev/null && echo reached`, "reached")
}

func (c *testCluster) testStreams() {
	for i := 1; i <= 2; i++ {
		pod := fmt.Sprintf("server-%d", i)
		c.kubectl("exec", pod, "--", "sh", "-c", "echo log of $(hostname) > /proc/1/fd/1")
		c.eventually("the log of "+pod, func(context.Context) error {
			out, err := c.try("kubectl", "logs", pod)
			if err == nil && !strings.Contains(out, "log of "+pod) {
				err = fmt.Errorf("it is %q", out)
			}
			return err
		})
	}
}

func (c *testCluster) testRestart() {
	var before [2]string
	for i := range before {
		before[i] = c.pod(fmt.Sprintf("server-%d", i+1)).Status.ContainerStatuses[0].ContainerID
		c.skiff("node", "restart", c.node(i+1))
	}
	c.eventually("the API is back", func(ctx context.Context) error {
		_, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		return err
	})
	// The kubelets have taken the pods up again when they carry out new work.
	for i := range before {
		name := fmt.Sprintf("server-%d", i+1)
		c.answers("timeout 3 wget -qO- http://"+name+".servers:8080", name)
		p := c.pod(name)
		if s := p.Status.ContainerStatuses[0]; s.ContainerID != before[i] || s.RestartCount != 0 {
			c.Errorf("%s was container %s and is now %s with %d restarts", name, before[i], s.ContainerID, s.RestartCount)
		}
	}
}

func (c *testCluster) testNodeFails() {
	c.skiff("node", "stop", c.node(2), "--grace", "0s")
	began := time.Now()
	c.kubectl("wait", "node", c.node(2), "--for=condition=Ready=Unknown", "--timeout=80s")
	c.Logf("the node's failure was noticed after %v", time.Since(began))
	c.eventually("the pod is to be evicted", func(ctx context.Context) error {
		p, err := c.client.CoreV1().Pods("default").Get(ctx, "server-2", metav1.GetOptions{})
		if err == nil && p.DeletionTimestamp == nil {
			err = fmt.Errorf("it is %s and stays", p.Status.Phase)
		}
		return err
	})
	// Nothing is sent to it any more.
	c.eventually("only the others answer", func(context.Context) error {
		out, err := c.exec("server-1", "for i in 1 2 3 4 5 6 7 8 9 10; do timeout 3 wget -qO- http://all || exit; done | sort -u")
		if err == nil && strings.Contains(out, "server-2") {
			err = fmt.Errorf("the answers are %q", out)
		}
		return err
	})
	c.skiff("node", "start", c.node(2))
	c.kubectl("wait", "node", c.node(2), "--for=condition=Ready", "--timeout=60s")
	c.eventually("the evicted pod is gone", func(ctx context.Context) error {
		p, err := c.client.CoreV1().Pods("default").Get(ctx, "server-2", metav1.GetOptions{})
		if err == nil {
			return fmt.Errorf("it is %s", p.Status.Phase)
		}
		return nil
	})
	c.apply(fmt.Sprintf(webPod, "server-2", c.node(2)))
	c.kubectl("wait", "pod/server-2", "--for=condition=Ready", "--timeout=60s")
	c.answers("timeout 3 wget -qO- http://server-2.servers:8080", "server-2")
	if phase := c.pod("server-2").Status.Phase; phase != corev1.PodRunning {
		c.Errorf("the new pod is %s", phase)
	}
}
