//go:build e2e

package e2e_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/images/imagetest"
)

var commandLine = []conformant{
	{"[sig-cli] Kubectl client Guestbook application should create and stop a working application", (*space).testApplication},
	{"[sig-cli] Kubectl client Kubectl api-versions should check if v1 is in available api versions", (*space).testAPIVersions},
	{"[sig-cli] Kubectl client Kubectl cluster-info should check if Kubernetes control plane services is included in cluster-info", (*space).testClusterInfo},
	{"[sig-cli] Kubectl client Kubectl describe should check if kubectl describe prints relevant information for rc and pods", (*space).testDescribe},
	{"[sig-cli] Kubectl client Kubectl diff should check if kubectl diff finds a difference for Deployments", (*space).testDiff},
	{"[sig-cli] Kubectl client Kubectl expose should create services for rc", (*space).testExpose},
	{"[sig-cli] Kubectl client Kubectl label should update the label on a resource", (*space).testLabel},
	{"[sig-cli] Kubectl client Kubectl patch should add annotations for pods in rc", (*space).testPatchPods},
	{"[sig-cli] Kubectl client Kubectl replace should update a single-container pod's image", (*space).testReplace},
	{"[sig-cli] Kubectl client Kubectl run pod should create a pod from an image when restart is Never", (*space).testRun},
	{"[sig-cli] Kubectl client Kubectl server-side dry-run should check if kubectl can dry-run update Pods", (*space).testDryRun},
	{"[sig-cli] Kubectl client Kubectl version should check is all data is printed", (*space).testVersion},
	{"[sig-cli] Kubectl client Proxy server should support --unix-socket=/path", (*space).testProxyToSocket},
	{"[sig-cli] Kubectl client Proxy server should support proxy with --port 0", (*space).testProxyToPort},
	{"[sig-cli] Kubectl client Update Demo should create and stop a replication controller", (*space).testUpdateDemo},
	{"[sig-cli] Kubectl client Update Demo should scale a replication controller", (*space).testUpdateDemoScale},
	{"[sig-cli] Kubectl logs logs should be able to retrieve and filter logs", (*space).testFilterLogs},
}

const controllerManifest = `
apiVersion: v1
kind: ReplicationController
metadata:
  name: demo
  labels: {app: demo}
spec:
  replicas: 2
  selector: {app: demo}
  template:
    metadata:
      labels: {app: demo}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: skiff.local/testserver:1
        command: [testserver, "http:8080"]
        ports:
        - {name: http, containerPort: 8080}
`

// A front end that keeps what it is told in a back end.
const application = `
apiVersion: v1
kind: Service
metadata: {name: backend}
spec:
  selector: {app: backend}
  ports:
  - port: 6379
---
apiVersion: v1
kind: Service
metadata: {name: frontend}
spec:
  selector: {app: frontend}
  ports:
  - {port: 80, targetPort: http}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: backend}
spec:
  selector: {matchLabels: {app: backend}}
  template:
    metadata: {labels: {app: backend}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: skiff.local/busybox:1
        command: [sh, -c, "touch /kept; echo 'read c v; [ $c = set ] && echo $v > /kept; cat /kept' > /answer; exec nc -ll -p 6379 -e sh /answer"]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: frontend}
spec:
  replicas: 3
  selector: {matchLabels: {app: frontend}}
  template:
    metadata: {labels: {app: frontend}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: skiff.local/busybox:1
        command: [sh, -c, "mkdir -p /www/cgi-bin; printf '#!/bin/sh\necho; echo $QUERY_STRING | tr + \" \" | nc backend 6379\n' > /www/cgi-bin/book; chmod +x /www/cgi-bin/book; exec httpd -f -p 8080 -h /www"]
        ports:
        - {name: http, containerPort: 8080}
`

func (s *space) testApplication() {
	s.create(application)
	for _, name := range []string{"backend", "frontend"} {
		s.rolledOut(name)
	}
	for _, question := range []string{"set+entry", "get"} {
		s.through(http.MethodGet, "services/frontend/proxy/cgi-bin/book?"+question, http.StatusOK, "entry\n")
	}
	_, err := s.with(application, "delete", "--wait", "-f", "-")
	s.ok(err)
	s.pods("frontend", 0, isReady)
	s.pods("backend", 0, isReady)
}

func (s *space) testAPIVersions() {
	if lines := strings.Fields(s.kubectl("api-versions")); !slices.Contains(lines, "v1") {
		s.Errorf("the versions are %v", lines)
	}
}

func (s *space) testClusterInfo() {
	s.expect(s.kubectl("cluster-info"), "Kubernetes control plane", "is running at", "https://")
}

func (s *space) testDescribe() {
	s.create(controllerManifest)
	s.kubectl("expose", "rc/demo", "--port=6379", "--target-port=http")
	for _, p := range s.pods("demo", 2, isReady) {
		s.expect(s.kubectl("describe", "pod", p.Name), "Name:", "Namespace:", "Node:", "Labels:", "app=demo", "Status:", "Running", "IP:",
			"Controlled By:", "ReplicationController/demo", "Image:", serverImage, "State:", "QoS Class:")
	}
	s.expect(s.kubectl("describe", "rc", "demo"), "Name:", "demo", "Namespace:", s.ns, "Selector:", "app=demo", "Labels:", "Replicas:", "2 current",
		"2 desired", "Pods Status:", "2 Running", "Image:", "Events:", "SuccessfulCreate")
	s.expect(s.kubectl("describe", "service", "demo"), "Name:", "demo", "Namespace:", s.ns, "Labels:", "app=demo", "Selector:", "app=demo", "Type:",
		"ClusterIP", "IP:", "Port:", "<unset>", "6379/TCP", "Endpoints:", "Session Affinity:", "None")
	s.expect(s.kubectl("describe", "node", s.node(1)), "Name:", s.node(1), "Labels:", "Annotations:", "CreationTimestamp", "Conditions:", "Type", "Status",
		"LastHeartbeatTime", "LastTransitionTime", "Reason", "Message", "Addresses", "Capacity", "Version", "Kernel Version", "Container Runtime Version",
		"Kubelet Version", "Pods")
	s.expect(s.kubectl("describe", "namespace", s.ns), "Name:", s.ns, "Labels:", "Annotations:", "Status:", "Active", "No resource quota", "No LimitRange resource")
}

func (s *space) testDiff() {
	s.deployment("diff", 1, nil)
	changed := strings.ReplaceAll(s.kubectl("get", "deployment", "diff", "-o", "yaml"), imagetest.BusyboxName, serverImage)
	out, err := s.with(changed, "diff", "-f", "-")
	var exit *exec.ExitError
	s.condition("a difference is no error", errors.As(err, &exit) && exit.ExitCode() == 1, err)
	s.expect(out, "-        image: "+imagetest.BusyboxName, "+        image: "+serverImage)
}

func (s *space) testExpose() {
	s.create(controllerManifest)
	s.pods("demo", 2, isReady)
	serves := func(name string, port int32) {
		s.Helper()
		v, err := s.client.CoreV1().Services(s.ns).Get(s.Context(), name, metav1.GetOptions{})
		s.ok(err)
		s.condition("the service has the port", len(v.Spec.Ports) == 1 && v.Spec.Ports[0].Port == port && v.Spec.Ports[0].TargetPort.IntValue() == 8080, v.Spec)
		s.eventually(name+" has endpoints", func(ctx context.Context) error {
			e, err := s.client.CoreV1().Endpoints(s.ns).Get(ctx, name, metav1.GetOptions{})
			if err == nil && (len(e.Subsets) != 1 || len(e.Subsets[0].Addresses) != 2 || e.Subsets[0].Ports[0].Port != 8080) {
				err = fmt.Errorf("they are %s", text(e.Subsets))
			}
			return err
		})
	}
	s.kubectl("expose", "rc", "demo", "--name=second", "--port=1234", "--target-port=8080")
	serves("second", 1234)
	s.kubectl("expose", "service", "second", "--name=third", "--port=2345", "--target-port=8080")
	serves("third", 2345)
}

func (s *space) testLabel() {
	s.startPod("labelled", template("labelled", idle))
	s.kubectl("label", "pods", "labelled", "testing-label=testing-label-value")
	s.expect(s.kubectl("get", "pod", "labelled", "-L", "testing-label"), "TESTING-LABEL", "testing-label-value")
	s.kubectl("label", "pods", "labelled", "testing-label-")
	if out := s.kubectl("get", "pod", "labelled", "-L", "testing-label"); strings.Contains(out, "testing-label-value") {
		s.Errorf("the label is still there:\n%s", out)
	}
}

func (s *space) testPatchPods() {
	s.create(controllerManifest)
	for _, p := range s.pods("demo", 2, isReady) {
		s.kubectl("patch", "pod", p.Name, "-p", `{"metadata":{"annotations":{"x":"y"}}}`)
	}
	s.pods("demo", 2, func(p *corev1.Pod) bool { return p.Annotations["x"] == "y" })
}

// image demands that a pod's container is of an image.
func (s *space) image(pod, want string) {
	s.Helper()
	p, err := s.client.CoreV1().Pods(s.ns).Get(s.Context(), pod, metav1.GetOptions{})
	s.ok(err)
	if got := p.Spec.Containers[0].Image; got != want {
		s.Errorf("the image is %s, not %s", got, want)
	}
}

func (s *space) testReplace() {
	s.kubectl("run", "replaced", "--image="+imagetest.BusyboxName, "--labels=run=replaced", "--", "sleep", "3600")
	s.ready("replaced")
	out, err := s.with(strings.ReplaceAll(s.kubectl("get", "pod", "replaced", "-o", "json"), imagetest.BusyboxName, serverImage), "replace", "-f", "-")
	s.ok(err)
	s.expect(out, "pod/replaced replaced")
	s.image("replaced", serverImage)
}

func (s *space) testRun() {
	s.kubectl("run", "once", "--restart=Never", "--image="+imagetest.BusyboxName, "--", "true")
	s.image("once", imagetest.BusyboxName)
	p := s.podThat("once", "has succeeded", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	s.condition("it is not restarted", p.Spec.RestartPolicy == corev1.RestartPolicyNever, p.Spec)
}

func (s *space) testDryRun() {
	s.kubectl("run", "dry", "--image="+imagetest.BusyboxName, "--labels=run=dry", "--", "sleep", "3600")
	s.ready("dry")
	out := s.kubectl("patch", "pod", "dry", "-p", `{"spec":{"containers":[{"name":"dry","image":"`+serverImage+`"}]}}`, "--dry-run=server", "-o", "yaml")
	s.expect(out, "image: "+serverImage)
	s.image("dry", imagetest.BusyboxName)
	s.kubectl("delete", "pod", "dry", "--now")
}

func (s *space) testVersion() {
	s.expect(s.kubectl("version"), "Client Version: v1.36", "Kustomize Version:", "Server Version: v1.36")
	s.expect(s.kubectl("version", "-o", "json"), "clientVersion", "serverVersion", "major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate",
		"goVersion", "compiler", "platform")
}

// proxying runs kubectl proxy and returns the first line that it prints.
func (s *space) proxying(args ...string) string {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	cmd := s.command(ctx, nil, append([]string{"kubectl", "proxy"}, args...)...)
	out, err := cmd.StdoutPipe()
	s.ok(err)
	s.ok(cmd.Start())
	s.Cleanup(func() { cancel(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	s.ok(err)
	return strings.TrimSpace(line)
}

func (s *space) testProxyToPort() {
	line := s.proxying("--port=0", "--disable-filter")
	address, ok := strings.CutPrefix(line, "Starting to serve on ")
	s.condition("it says where it serves", ok, line)
	got, err := fetch("http://" + address + "/api/")
	s.ok(err)
	s.expect(got, "APIVersions", `"v1"`)
}

func (s *space) testProxyToSocket() {
	path := filepath.Join(s.TempDir(), "s")
	s.expect(s.proxying("--unix-socket="+path), path)
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	answer, err := client.Get("http://localhost/api/")
	s.ok(err)
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	s.ok(err)
	s.expect(string(got), "APIVersions", `"v1"`)
}

// demo waits until n pods of the demonstration answer.
func (s *space) demo(n int) {
	s.Helper()
	pods := s.pods("demo", n, isReady)
	s.answerByName(pods)
	if got := strings.Fields(s.kubectl("get", "pods", "-l", "app=demo", "-o", "template", `--template={{range .items}}{{.metadata.name}} {{end}}`)); len(got) != n {
		s.Errorf("kubectl lists %v", got)
	}
}

func (s *space) testUpdateDemo() {
	s.create(controllerManifest)
	s.demo(2)
	_, err := s.with(controllerManifest, "delete", "--grace-period=0", "--force", "-f", "-")
	s.ok(err)
	s.eventually("everything is gone", func(context.Context) error {
		out, err := s.with("", "get", "rc,pods", "-l", "app=demo", "--no-headers", "-o", "name")
		if err == nil && out != "" {
			err = errors.New(out)
		}
		return err
	})
}

func (s *space) testUpdateDemoScale() {
	s.create(controllerManifest)
	s.demo(2)
	s.kubectl("scale", "rc", "demo", "--replicas=1", "--timeout=150s")
	s.demo(1)
	s.kubectl("scale", "rc", "demo", "--replicas=2", "--timeout=150s")
	s.demo(2)
}

func (s *space) testFilterLogs() {
	s.startPod("logs", template("logs", "i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo line $i of /api/v1/namespaces/kube-system; done; echo last; "+idle))
	s.eventually("the log is complete", func(context.Context) error {
		out, err := s.with("", "logs", "logs", "main")
		if err == nil && (!strings.HasSuffix(out, "last\n") || strings.Count(out, "/api/v1/namespaces/kube-system") != 100) {
			err = fmt.Errorf("it is %q", out)
		}
		return err
	})
	if out := s.kubectl("logs", "logs", "main", "--tail=1"); out != "last\n" {
		s.Errorf("the last line is %q", out)
	}
	if out := s.kubectl("logs", "logs", "main", "--limit-bytes=1"); out != "l" {
		s.Errorf("the first byte is %q", out)
	}
	stamp, line, _ := strings.Cut(s.kubectl("logs", "logs", "main", "--tail=1", "--timestamps"), " ")
	if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil || line != "last\n" {
		s.Errorf("with its time the last line is %q %q, %v", stamp, line, err)
	}
	s.eventually("the lines are older than a second", func(context.Context) error {
		out, err := s.with("", "logs", "logs", "main", "--since=1s")
		if err == nil && out != "" {
			err = fmt.Errorf("%q is not", out)
		}
		return err
	})
	if out := s.kubectl("logs", "logs", "main", "--since=24h"); strings.Count(out, "\n") != 101 {
		s.Errorf("of the last day there are %d lines", strings.Count(out, "\n"))
	}
}
