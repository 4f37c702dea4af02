//go:build e2e

package e2e_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"
)

const web = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 2
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: skiff.local/busybox:1
        command: [sh, -c, "mkdir -p /www /tmp; echo $VERSION $(hostname) > /www/index.html; echo serving $VERSION; exec httpd -f -p 8080 -h /www"]
        env:
        - {name: VERSION, value: v1}
        ports:
        - {name: http, containerPort: 8080}
        readinessProbe:
          httpGet: {path: /, port: http}
          periodSeconds: 1
---
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector: {app: web}
  ports:
  - {port: 80, targetPort: http}
`

// talker writes a line a second, and answers each line that it reads.
const talker = `
apiVersion: v1
kind: Pod
metadata:
  name: talker
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: talker
    image: skiff.local/busybox:1
    stdin: true
    command: [sh, -c, "mkdir -p /tmp; echo begun; while read line; do echo answer to $line; done; sleep 3600"]
`

// TestKubectl goes through what users do with kubectl and real containers.
func TestKubectl(t *testing.T) {
	c := start(t, "e2ekubectl", 1)
	c.apply(web)
	c.apply(talker)
	c.expect(c.kubectl("rollout", "status", "deployment/web", "--timeout=60s"), "successfully rolled out")
	c.kubectl("wait", "pod/talker", "--for=condition=Ready", "--timeout=60s")
	for _, sub := range []struct {
		name string
		run  func(*testCluster)
	}{
		{"get, describe, explain", (*testCluster).testLook},
		{"logs", (*testCluster).testLogs},
		{"exec", (*testCluster).testExec},
		{"exec in a terminal", (*testCluster).testTerminal},
		{"attach", (*testCluster).testAttach},
		{"cp", (*testCluster).testCopy},
		{"port-forward", (*testCluster).testPortForward},
		{"proxy", (*testCluster).testProxy},
		{"debug", (*testCluster).testDebug},
		{"resize in place", (*testCluster).testResize},
		{"edit, label, annotate, scale", (*testCluster).testChange},
		{"apply, diff, dry run", (*testCluster).testApply},
		{"rollout", (*testCluster).testRollout},
		{"delete", (*testCluster).testDelete},
	} {
		t.Run(sub.name, func(t *testing.T) { sub.run(c.in(t)) })
	}
}

func (c *testCluster) testLook() {
	c.expect(c.kubectl("get", "pods", "-o", "wide"), "NOMINATED NODE", "talker", "1/1", "Running", c.name+"-1", "10.244.")
	c.expect(c.kubectl("get", "deployment", "web", "-o", "yaml"), "apiVersion: apps/v1", "availableReplicas: 2", "kubectl.kubernetes.io/last-applied-configuration")
	c.expect(c.kubectl("describe", "pod", "talker"), "Status:", "Running", "Container ID:", "containerd://", "Scheduled", "Started", "QoS Class:", "BestEffort")
	c.expect(c.kubectl("describe", "node", c.name+"-1"), "KubeletReady", "Non-terminated Pods:", "talker", "Allocated resources:")
	c.expect(c.kubectl("describe", "service", "web"), "Endpoints:", "10.244.", "Session Affinity:")
	c.expect(c.kubectl("explain", "deployment.spec.strategy.rollingUpdate.maxSurge"), "FIELD: maxSurge", "IntOrString")
	c.expect(c.kubectl("api-resources"), "deployments", "deploy", "apps/v1", "true", "Deployment")
	c.expect(c.kubectl("auth", "can-i", "create", "pods"), "yes")
}

func (c *testCluster) testLogs() {
	c.expect(c.kubectl("logs", "deployment/web"), "serving v1")
	c.expect(c.kubectl("logs", "-l", "app=web", "--prefix", "--tail=1"), "/web-", "serving v1")
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	follow := c.command(ctx, nil, "kubectl", "logs", "-f", "talker")
	out, err := follow.StdoutPipe()
	if err != nil {
		c.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		c.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "begun" {
		c.Fatalf("the first line is %q", lines.Text())
	}
	c.kubectl("exec", "talker", "--", "sh", "-c", "echo from another process > /proc/1/fd/1")
	if !lines.Scan() || lines.Text() != "from another process" {
		c.Errorf("the next line is %q", lines.Text())
	}
	cancel()
	follow.Wait()
}

func (c *testCluster) testExec() {
	out, err := c.tryWith(nil, "into it", "kubectl", "exec", "-i", "talker", "--", "sh", "-c", "cat; echo; hostname; exit 7")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		c.Errorf("exec ended with %v, not with status 7", err)
	}
	c.expect(out, "into it\ntalker\n")
	if _, err := c.try("kubectl", "exec", "talker", "--", "no-such-program"); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		c.Errorf("a program that is not there: %v", err)
	}
}

func (c *testCluster) testTerminal() {
	master, slave, err := console.NewPty()
	if err != nil {
		c.Fatal(err)
	}
	defer master.Close()
	if err := master.Resize(console.WinSize{Height: 33, Width: 77}); err != nil {
		c.Fatal(err)
	}
	terminal, err := os.OpenFile(slave, os.O_RDWR, 0)
	if err != nil {
		c.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	cmd := c.command(ctx, nil, "kubectl", "exec", "-it", "talker", "--", "sh")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	terminal.Close()
	if _, err := io.WriteString(master, "tty; busybox stty size; exit\n"); err != nil {
		c.Fatal(err)
	}
	// Reading a terminal fails once nobody has its other end open.
	text, _ := io.ReadAll(master)
	if err := cmd.Wait(); err != nil {
		c.Errorf("%v\n%s", err, text)
	}
	c.expect(string(text), "/dev/pts/", "33 77")
}

func (c *testCluster) testAttach() {
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	cmd := c.command(ctx, nil, "kubectl", "attach", "-i", "talker")
	in, err := cmd.StdinPipe()
	if err != nil {
		c.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	if _, err := io.WriteString(in, "a question\n"); err != nil {
		c.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "answer to a question" {
	}
	if lines.Text() != "answer to a question" {
		c.Errorf("the answer did not come; the last line was %q", lines.Text())
	}
	cancel()
	cmd.Wait()
}

func (c *testCluster) testCopy() {
	there, back := filepath.Join(c.TempDir(), "there"), filepath.Join(c.TempDir(), "back")
	data := strings.Repeat("0123456789abcdef", 1<<16)
	if err := os.WriteFile(there, []byte(data), 0o600); err != nil {
		c.Fatal(err)
	}
	c.kubectl("cp", there, "talker:/tmp/file")
	c.kubectl("cp", "talker:/tmp/file", back)
	if got, err := os.ReadFile(back); err != nil || string(got) != data {
		c.Errorf("%d of %d bytes came back, %v", len(got), len(data), err)
	}
}

func (c *testCluster) testPortForward() {
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	cmd := c.command(ctx, nil, "kubectl", "port-forward", "service/web", ":80")
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		c.Fatal(err)
	}
	var port, target int
	if _, err := fmt.Sscanf(line, "Forwarding from 127.0.0.1:%d -> %d", &port, &target); err != nil || target != 8080 {
		c.Fatalf("%q: %v", line, err)
	}
	for range 3 {
		text, err := fetch(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err != nil || !strings.HasPrefix(text, "v1 web-") {
			c.Errorf("%q, %v", text, err)
		}
	}
	cancel()
	cmd.Wait()
}

func (c *testCluster) testProxy() {
	for _, path := range []string{"services/web:80/proxy/", "services/http:web:80/proxy/index.html"} {
		c.expect(c.kubectl("get", "--raw", "/api/v1/namespaces/default/"+path), "v1 web-")
	}
	name := strings.Fields(c.kubectl("get", "pods", "-l", "app=web", "-o", "name"))[0]
	c.expect(c.kubectl("get", "--raw", "/api/v1/namespaces/default/pods/"+strings.TrimPrefix(name, "pod/")+":8080/proxy/"), "v1 web-")
	c.expect(c.kubectl("get", "--raw", "/api/v1/nodes/"+c.name+"-1/proxy/healthz"), "ok")
}

func (c *testCluster) testDebug() {
	c.kubectl("debug", "talker", "--image=skiff.local/busybox:1", "--image-pull-policy=Never", "--container=guest", "--target=talker", "--", "sh", "-c", "cat /proc/1/cmdline; echo; sleep 3600")
	c.eventually("the guest sees the processes of its target", func(context.Context) error {
		out, err := c.try("kubectl", "logs", "talker", "-c", "guest")
		if err == nil && !strings.Contains(out, "answer to") {
			err = fmt.Errorf("its log is %q", out)
		}
		return err
	})
}

func (c *testCluster) testChange() {
	editor := filepath.Join(c.TempDir(), "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nsed -i 's/replicas: 2/replicas: 3/' \"$1\"\n"), 0o700); err != nil {
		c.Fatal(err)
	}
	if out, err := c.tryWith([]string{"KUBE_EDITOR=" + editor}, "", "kubectl", "edit", "deployment/web"); err != nil || !strings.Contains(out, "edited") {
		c.Fatalf("%s, %v", out, err)
	}
	c.kubectl("wait", "deployment/web", "--for=jsonpath={.status.availableReplicas}=3", "--timeout=60s")
	c.kubectl("scale", "deployment/web", "--replicas=1")
	c.kubectl("wait", "deployment/web", "--for=jsonpath={.status.replicas}=1", "--timeout=60s")
	c.kubectl("label", "deployment/web", "tier=front")
	c.kubectl("annotate", "deployment/web", "note=kept")
	c.expect(c.kubectl("get", "deployments", "-l", "tier=front", "-o", "jsonpath={.items[*].metadata.annotations.note}"), "kept")
}

func (c *testCluster) testApply() {
	changed := strings.Replace(web, "targetPort: http", "targetPort: 8080", 1)
	out, err := c.tryWith(nil, changed, "kubectl", "diff", "-f", "-")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		c.Errorf("diff: %v", err)
	}
	c.expect(out, "-    targetPort: http", "+    targetPort: 8080")
	for _, how := range []string{"--dry-run=server", "--server-side"} {
		if _, err := c.tryWith(nil, changed, "kubectl", "apply", how, "-f", "-", "--force-conflicts="+fmt.Sprint(how == "--server-side")); err != nil {
			c.Error(err)
		}
		want := "http"
		if how == "--server-side" {
			want = "8080"
		}
		if got := c.kubectl("get", "service", "web", "-o", "jsonpath={.spec.ports[0].targetPort}"); got != want {
			c.Errorf("after apply %s the target port is %s, not %s", how, got, want)
		}
	}
}

func (c *testCluster) testRollout() {
	c.kubectl("set", "env", "deployment/web", "VERSION=v2")
	c.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	c.expect(c.kubectl("rollout", "history", "deployment/web"), "REVISION", "1", "2")
	c.kubectl("rollout", "undo", "deployment/web")
	c.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	c.expect(c.kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].env[0].value}"), "v1")
	c.kubectl("rollout", "restart", "deployment/web")
	c.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
}

func (c *testCluster) testDelete() {
	c.kubectl("delete", "deployment/web", "pod/talker", "--wait", "--timeout=60s")
	c.kubectl("wait", "pods", "--all", "--for=delete", "--timeout=60s")
	if _, err := c.try("kubectl", "get", "pod", "talker"); err == nil || !strings.Contains(err.Error(), `Error from server (NotFound): pods "talker" not found`) {
		c.Errorf("after the deletion: %v", err)
	}
}

// fetch returns what a server answers, on a connection of its own.
func fetch(url string) (string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	return string(text), err
}
