//go:build e2e

package kubelet_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/client/remote"
	"skiff/internal/cluster/testcluster"
	"skiff/internal/containerd/runtimetest"
	"skiff/internal/identity"
	"skiff/internal/images/imagetest"
	"skiff/internal/kubelet"
	"skiff/internal/kubelet/eviction"
	"skiff/internal/kubelet/status"
)

func TestMain(m *testing.M) { runtimetest.Main(m) }

const (
	nodeName   = "node"
	port       = 21250
	cgroupRoot = "/skiff-test-kubelet"
)

// node is a control plane, a container runtime and a kubelet between them.
type node struct {
	*testcluster.Cluster
	runtime *runtimetest.Node
	root    string
	logs    string
	// manifests is the directory of static pods.
	manifests string
	// thresholds are what the next kubelet is told of evictions.
	thresholds []eviction.Threshold
	stop       func()
}

func start(t *testing.T) *node {
	t.Helper()
	return startOn(t, testcluster.Start(t))
}

func startOn(t *testing.T, c *testcluster.Cluster) *node {
	t.Helper()
	n := &node{runtime: runtimetest.Start(t), Cluster: c, root: t.TempDir(), logs: t.TempDir(), manifests: t.TempDir()}
	account := &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}
	if err := n.Client.Create(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	n.startKubelet(t)
	t.Cleanup(removeCgroups)
	t.Cleanup(func() { n.stop() })
	t.Cleanup(func() {
		grace := client.GracePeriodSeconds(0)
		if err := n.Client.DeleteAllOf(context.Background(), &v1.Pod{}, client.InNamespace("default"), grace); err != nil {
			t.Error(err)
		}
		eventually(t, func() error {
			entries, err := os.ReadDir(filepath.Join(n.root, "pods"))
			if err == nil && len(entries) > 0 {
				err = fmt.Errorf("%d pods are left", len(entries))
			}
			return err
		})
	})
	return n
}

func (n *node) startKubelet(t *testing.T) {
	t.Helper()
	loopback := netip.MustParseAddr("127.0.0.1")
	own, serving, err := n.PKI.Kubelet(nodeName, loopback)
	if err != nil {
		t.Fatal(err)
	}
	// As on a machine of its own: over HTTP, with a node's rights.
	certificate, key, err := own.PEM()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	config := rest.CopyConfig(n.Config)
	config.CertData, config.KeyData = certificate, key
	ctx, cancel := context.WithCancel(context.Background())
	set, err := remote.Connect(ctx, config, n.Scheme, remote.Options{ByObject: map[client.Object]cache.ByObject{
		&v1.Pod{}: {Field: fields.OneTermEqualSelector("spec.nodeName", nodeName)},
	}}, log)
	if err != nil {
		t.Fatal(err)
	}
	k, err := kubelet.New(kubelet.Config{
		NodeName: nodeName, NodeIPs: []netip.Addr{loopback}, RootDir: n.root, PodLogsDir: n.logs, StaticPodDir: n.manifests, EvictionThresholds: n.thresholds,
		// However full this machine's disk is, the tests' images stay.
		ImageHighPercent: 100,
		TrustBundles:     true, RuntimeEndpoint: n.runtime.Endpoint(), CgroupRoot: cgroupRoot, Address: loopback, Port: port,
		ServingCert: func() (*tls.Certificate, error) { return serving.Certificate(), nil },
		ClientCA:    n.PKI.CA.Pool(), Authenticate: kubelet.AuthenticateByReview(set.Client), Authorize: kubelet.AuthorizeByReview(set.Client, nodeName),
		Version: "v1.36.0", Client: set, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	n.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		ended <- nil
	}
}

func script(name, text string) v1.Container {
	return v1.Container{
		Name: name, Image: imagetest.BusyboxName, ImagePullPolicy: v1.PullNever,
		Command: []string{"sh", "-c", text},
	}
}

func pod(name string, containers ...v1.Container) *v1.Pod {
	no, grace := false, int64(2)
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": name}},
		Spec: v1.PodSpec{
			NodeName: nodeName, HostNetwork: true, AutomountServiceAccountToken: &no,
			TerminationGracePeriodSeconds: &grace, Containers: containers, ServiceAccountName: "default",
		},
	}
}

func (n *node) create(t *testing.T, p *v1.Pod) *v1.Pod {
	t.Helper()
	if err := n.Client.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// await waits until check finds the pod as it should be, and returns it.
func (n *node) await(t *testing.T, name string, check func(*v1.Pod) bool) *v1.Pod {
	t.Helper()
	p := &v1.Pod{}
	eventually(t, func() error {
		if err := n.Client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, p); err != nil {
			return err
		}
		if !check(p) {
			return fmt.Errorf("pod %s is %s: %+v", name, p.Status.Phase, p.Status)
		}
		return nil
	})
	return p
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func ready(p *v1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

// get asks the node's API as an administrator.
func (n *node) get(t *testing.T, path string) string {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: n.PKI.CA.Pool(), Certificates: []tls.Certificate{*n.PKI.Admin.Certificate()},
	}}
	defer transport.CloseIdleConnections()
	r, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Get(fmt.Sprintf("https://127.0.0.1:%d%s", port, path))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s %v", path, r.Status, body, err)
	}
	return string(body)
}

func (n *node) log(t *testing.T, name, container string) string {
	t.Helper()
	return n.get(t, "/containerLogs/default/"+name+"/"+container)
}

func TestNode(t *testing.T) {
	n := start(t)
	t.Run("environment, volumes and an init container", n.content)
	t.Run("completion", n.completion)
	t.Run("crash loop", n.crashLoop)
	t.Run("probes", n.probes)
	t.Run("sidecar", n.sidecar)
	t.Run("restart of all containers", n.restartAll)
	t.Run("graceful deletion", n.deletion)
	t.Run("readiness until the end", n.readinessUntilTheEnd)
	t.Run("restart of the kubelet", n.restart)
	t.Run("admission", n.admission)
	t.Run("missing image and config map", n.missing)
	t.Run("statistics", n.statistics)
	t.Run("streams", n.streams)
	t.Run("static pods", n.static)
	t.Run("tokens", n.tokens)
}

// readinessUntilTheEnd is about a container that is not ready any more when it is
// asked to end, and takes its time.
func (n *node) readinessUntilTheEnd(t *testing.T) {
	c := script("c", "trap 'rm /tmp/ready; sleep 5; exit 0' TERM; mkdir -p /tmp; touch /tmp/ready; while :; do sleep 0.1; done")
	c.ReadinessProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"test", "-e", "/tmp/ready"}}}}
	p := pod("until-the-end", c)
	grace := int64(60)
	p.Spec.TerminationGracePeriodSeconds = &grace
	n.create(t, p)
	n.await(t, p.Name, ready)
	if err := n.Client.Delete(t.Context(), p.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	got := n.await(t, p.Name, func(p *v1.Pod) bool { return !ready(p) })
	if got.DeletionTimestamp == nil || got.Status.ContainerStatuses[0].State.Running == nil {
		t.Errorf("when it is not ready any more: %+v", got.Status)
	}
}

func (n *node) restartAll(t *testing.T) {
	source := script("source", "test -e /data/again && exec sleep 1000; touch /data/again; exit 42")
	never := v1.ContainerRestartPolicyNever
	source.RestartPolicy = &never
	source.RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers, ExitCodes: &v1.ContainerRestartRuleOnExitCodes{
		Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42},
	}}}
	source.VolumeMounts = []v1.VolumeMount{{Name: "data", MountPath: "/data"}}
	p := pod("restart-all", source, script("other", "exec sleep 1000"))
	p.Spec.RestartPolicy = v1.RestartPolicyNever
	p.Spec.InitContainers = []v1.Container{script("init", "true")}
	p.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
	n.create(t, p)
	got := n.await(t, p.Name, func(p *v1.Pod) bool {
		return ready(p) && len(p.Status.ContainerStatuses) == 2 && p.Status.ContainerStatuses[0].RestartCount == 1
	})
	for _, s := range append(got.Status.InitContainerStatuses, got.Status.ContainerStatuses...) {
		if s.RestartCount != 1 || s.LastTerminationState.Terminated == nil {
			t.Errorf("%s restarted %d times, the last end: %v", s.Name, s.RestartCount, s.LastTerminationState)
		}
	}
}

// tokens are how monitoring asks the node's API: whose they are and what those
// may do, the API server says.
func (n *node) tokens(t *testing.T) {
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "monitor"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes/metrics"}, Verbs: []string{"get"}},
	}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "monitor"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "monitor"}},
	}
	account := &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "monitor"}}
	for _, o := range []client.Object{role, binding, account} {
		if err := n.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	n.Granted(t, &identity.User{Name: "system:serviceaccount:default:monitor", Groups: []string{identity.GroupAuthenticated}},
		authorizationv1.ResourceAttributes{Verb: "get", Resource: "nodes", Subresource: "metrics", Name: nodeName})
	request := &authenticationv1.TokenRequest{}
	if err := n.Client.SubResource("token").Create(t.Context(), account, request); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: n.PKI.CA.Pool()}}
	defer transport.CloseIdleConnections()
	for _, row := range []struct {
		token, path string
		want        int
	}{
		{request.Status.Token, "/metrics", http.StatusOK},
		{request.Status.Token, "/metrics", http.StatusOK},
		{request.Status.Token, "/pods", http.StatusForbidden},
		{"not." + request.Status.Token, "/metrics", http.StatusUnauthorized},
		{"", "/metrics", http.StatusUnauthorized},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d%s", port, row.path), nil)
		if err != nil {
			t.Fatal(err)
		}
		if row.token != "" {
			r.Header.Set("Authorization", "Bearer "+row.token)
		}
		answer, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != row.want {
			t.Errorf("%s with a token of %d characters: %s, want %d", row.path, len(row.token), answer.Status, row.want)
		}
	}
}

func (n *node) content(t *testing.T) {
	config := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "config"}, Data: map[string]string{"key": "one"}}
	if err := n.Client.Create(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	c := script("c", `echo "$GREETING on $NODE mem $MEM key $KEY"; cat /shared/init; test -s /token/token && echo token; cat /down/labels; echo; cat /sub/file; cat /image/passwd; echo "$WRITTEN"; exec sleep 1000`)
	c.Env = []v1.EnvVar{
		{Name: "WHO", Value: "world"},
		{Name: "GREETING", Value: "hello $(WHO)"},
		{Name: "NODE", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}},
		{Name: "MEM", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}},
		{Name: "WRITTEN", ValueFrom: &v1.EnvVarSource{FileKeyRef: &v1.FileKeySelector{VolumeName: "shared", Path: "env", Key: "WRITTEN"}}},
		{Name: "KEY", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "config"}, Key: "key"}}},
	}
	c.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi"), v1.ResourceCPU: resource.MustParse("500m")}
	c.VolumeMounts = []v1.VolumeMount{
		{Name: "shared", MountPath: "/shared"}, {Name: "config", MountPath: "/config"}, {Name: "token", MountPath: "/token"},
		{Name: "down", MountPath: "/down"}, {Name: "shared", MountPath: "/sub", SubPath: "deep/dir"}, {Name: "image", MountPath: "/image", SubPath: "etc"},
	}
	init := script("init", "echo from-init > /shared/init; echo \"WRITTEN='by init'\" > /shared/env; mkdir -p /shared/deep/dir; echo sub > /shared/deep/dir/file")
	init.VolumeMounts = []v1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
	p := pod("content", c)
	p.Spec.InitContainers = []v1.Container{init}
	p.Spec.Volumes = []v1.Volume{
		{Name: "shared", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "config"}}}},
		{Name: "token", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}},
		}}}},
		{Name: "down", VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
		}}}},
		{Name: "image", VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: imagetest.BusyboxName, PullPolicy: v1.PullNever}}},
	}
	n.create(t, p)
	got := n.await(t, "content", ready)
	if got.Status.HostIP != "127.0.0.1" || got.Status.PodIP != "127.0.0.1" || got.Status.InitContainerStatuses[0].State.Terminated == nil {
		t.Errorf("status: %+v", got.Status)
	}
	want := "hello world on node mem 64 key one\nfrom-init\ntoken\napp=\"content\"\nsub\nroot:x:0:0:root:/:/bin/sh\nby init\n"
	eventually(t, func() error {
		if have := n.log(t, "content", "c"); have != want {
			return fmt.Errorf("the container said %q, want %q", have, want)
		}
		return nil
	})
	cgroup := filepath.Join("/sys/fs/cgroup/memory"+cgroupRoot+"/kubepods/pod"+string(got.UID), "memory.limit_in_bytes")
	if limit, err := os.ReadFile(cgroup); err == nil && strings.TrimSpace(string(limit)) != "67108864" {
		t.Errorf("the pod's cgroup is limited to %s", limit)
	}

	config.Data["key"] = "two"
	if err := n.Client.Update(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	n.shows(t, got, "kubernetes.io~configmap/config/key", "two")
	got.Labels["app"] = "renamed"
	if err := n.Client.Update(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	n.shows(t, got, "kubernetes.io~downward-api/down/labels", `app="renamed"`)
}

// shows waits until the file of one of the pod's volumes says want.
func (n *node) shows(t *testing.T, p *v1.Pod, file, want string) {
	t.Helper()
	eventually(t, func() error {
		b, err := os.ReadFile(filepath.Join(n.root, "pods", string(p.UID), "volumes", file))
		if err == nil && string(b) != want {
			err = fmt.Errorf("%s still says %q", file, b)
		}
		return err
	})
}

func (n *node) completion(t *testing.T) {
	good, bad := pod("good", script("c", "true")), pod("bad", script("c", "echo -n gone > /dev/termination-log; exit 3"))
	good.Spec.RestartPolicy, bad.Spec.RestartPolicy = v1.RestartPolicyNever, v1.RestartPolicyNever
	n.create(t, good)
	n.create(t, bad)
	n.await(t, "good", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodSucceeded })
	p := n.await(t, "bad", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	end := p.Status.ContainerStatuses[0].State.Terminated
	if end == nil || end.ExitCode != 3 || end.Reason != "Error" || end.Message != "gone" {
		t.Errorf("the container ended with %+v", end)
	}
}

func (n *node) crashLoop(t *testing.T) {
	n.create(t, pod("crash", script("c", "exit 1")))
	p := n.await(t, "crash", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
	if s := p.Status.ContainerStatuses[0]; s.RestartCount != 1 || s.LastTerminationState.Terminated == nil || p.Status.Phase != v1.PodRunning {
		t.Errorf("status: %+v", p.Status)
	}
}

func (n *node) probes(t *testing.T) {
	c := script("c", "touch /alive; sleep 1; touch /ready; exec sleep 1000")
	check := func(command ...string) *v1.Probe {
		return &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: command}}, PeriodSeconds: 1, FailureThreshold: 1}
	}
	c.ReadinessProbe = check("test", "-e", "/ready")
	c.LivenessProbe = check("test", "-e", "/alive")
	c.StartupProbe = check("true")
	n.create(t, pod("probes", c))
	n.await(t, "probes", ready)
	p := n.await(t, "probes", ready)
	_, id, _ := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
	if _, err := n.runtime.CRI.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"rm", "/alive"}}); err != nil {
		t.Fatal(err)
	}
	n.await(t, "probes", func(p *v1.Pod) bool { return p.Status.ContainerStatuses[0].RestartCount == 1 && ready(p) })
}

func (n *node) sidecar(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	side := script("side", "trap 'echo stopped; exit 0' TERM; echo up; while true; do sleep 0.1; done")
	side.RestartPolicy = &always
	p := pod("sidecar", script("main", "sleep 1; echo done"))
	p.Spec.InitContainers = []v1.Container{side}
	p.Spec.RestartPolicy = v1.RestartPolicyNever
	n.create(t, p)
	got := n.await(t, "sidecar", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodSucceeded })
	if end := got.Status.InitContainerStatuses[0].State.Terminated; end == nil || end.ExitCode != 0 {
		t.Errorf("the sidecar: %+v", got.Status.InitContainerStatuses[0].State)
	}
}

func (n *node) deletion(t *testing.T) {
	c := script("c", "trap 'exit 0' TERM; while true; do sleep 0.1; done")
	c.Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"touch", "/hook/ran"}}}}
	dir := t.TempDir()
	c.VolumeMounts = []v1.VolumeMount{{Name: "hook", MountPath: "/hook"}}
	p := pod("deleted", c)
	grace := int64(20)
	p.Spec.TerminationGracePeriodSeconds = &grace
	p.Spec.Volumes = []v1.Volume{{Name: "hook", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: dir}}}}
	n.create(t, p)
	p = n.await(t, "deleted", ready)
	began := time.Now()
	if err := n.Client.Delete(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		err := n.Client.Get(t.Context(), client.ObjectKeyFromObject(p), &v1.Pod{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("the pod is still there: %v", err)
	})
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("a container that ends at once took %v to go", took)
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err != nil {
		t.Errorf("the preStop hook did not run: %v", err)
	}
	for _, path := range []string{filepath.Join(n.root, "pods", string(p.UID)), filepath.Join(n.logs, "default_deleted_"+string(p.UID))} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

func (n *node) restart(t *testing.T) {
	n.create(t, pod("stays", script("c", "exec sleep 1000")))
	n.create(t, pod("orphan", script("c", "exec sleep 1000")))
	before := n.await(t, "stays", ready)
	orphan := n.await(t, "orphan", ready)
	n.stop()
	if err := n.Client.Delete(t.Context(), orphan, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	n.startKubelet(t)
	eventually(t, func() error {
		r, err := n.runtime.CRI.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{
			Filter: &cri.PodSandboxFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(orphan.UID)}},
		})
		if err == nil && len(r.Items) > 0 {
			err = fmt.Errorf("the orphan is still there")
		}
		return err
	})
	n.create(t, pod("after", script("c", "exec sleep 1000")))
	n.await(t, "after", ready)
	after := n.await(t, "stays", ready)
	if a, b := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]; a.ContainerID != b.ContainerID || b.RestartCount != 0 {
		t.Errorf("container %s became %s, restarted %d times", a.ContainerID, b.ContainerID, b.RestartCount)
	}
}

func (n *node) admission(t *testing.T) {
	c := script("c", "exec sleep 1000")
	c.Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse("1000")}
	n.create(t, pod("big", c))
	p := n.await(t, "big", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	if p.Status.Reason != "OutOfcpu" {
		t.Errorf("rejected with %s: %s", p.Status.Reason, p.Status.Message)
	}
	// What a pod held is free as soon as its status says that it is over.
	var node v1.Node
	if err := n.Client.Get(t.Context(), client.ObjectKey{Name: p.Spec.NodeName}, &node); err != nil {
		t.Fatal(err)
	}
	most := node.Status.Allocatable.Cpu().MilliValue() * 3 / 4
	for i := range 5 {
		c := script("c", "true")
		c.Resources.Requests = v1.ResourceList{v1.ResourceCPU: *resource.NewMilliQuantity(most, resource.DecimalSI)}
		p := pod(fmt.Sprint("next-", i), c)
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		n.create(t, p)
		p = n.await(t, p.Name, func(p *v1.Pod) bool { return status.Terminal(p.Status.Phase) })
		if p.Status.Phase != v1.PodSucceeded {
			t.Errorf("%s: %s: %s", p.Name, p.Status.Reason, p.Status.Message)
		}
	}
}

func (n *node) missing(t *testing.T) {
	image := script("c", "true")
	image.Image = "skiff.local/absent:1"
	n.create(t, pod("no-image", image))
	n.await(t, "no-image", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "ErrImageNeverPull"
	})
	env := script("c", "exec sleep 1000")
	env.EnvFrom = []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "late"}}}}
	n.create(t, pod("no-config", env))
	p := n.await(t, "no-config", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "CreateContainerConfigError"
	})
	if m := p.Status.ContainerStatuses[0].State.Waiting.Message; m != `configmap "late" not found` && m != `configmaps "late" not found` {
		t.Errorf("message %q", m)
	}
	late := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "late"}}
	if err := n.Client.Create(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	n.await(t, "no-config", ready)
}

func (n *node) statistics(t *testing.T) {
	n.create(t, pod("measured", script("c", "exec sleep 1000")))
	n.await(t, "measured", ready)
	if s := n.get(t, "/stats/summary"); !strings.Contains(s, `"name":"measured"`) {
		t.Errorf("summary: %s", s)
	}
	if m := n.get(t, "/metrics/resource"); !strings.Contains(m, `container_memory_working_set_bytes{container="c",namespace="default",pod="measured"}`) {
		t.Errorf("metrics: %s", m)
	}
	if s := n.get(t, "/healthz"); s != "ok" {
		t.Errorf("healthz: %s", s)
	}
	anonymous := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: n.PKI.CA.Pool()}}
	defer anonymous.CloseIdleConnections()
	r, err := (&http.Client{Transport: anonymous}).Get(fmt.Sprintf("https://127.0.0.1:%d/pods", port))
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusUnauthorized {
		t.Errorf("anonymous request: %s", r.Status)
	}
}

// removeCgroups removes what the kubelet leaves for its next start.
func removeCgroups() {
	for _, class := range []string{"kubepods/besteffort", "kubepods/burstable", "kubepods", ""} {
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroupRoot)
		for _, dir := range append(dirs, "/sys/fs/cgroup"+cgroupRoot) {
			os.Remove(filepath.Join(dir, class))
		}
	}
}

// streams asks for logs through the API server, and for streams as the API
// server does.
func (n *node) streams(t *testing.T) {
	n.create(t, pod("streams", script("c", "mkdir /www; echo served > /www/file; echo started; exec httpd -f -p 127.0.0.1:21251 -h /www")))
	n.await(t, "streams", ready)
	clients, err := kubernetes.NewForConfig(n.Config)
	if err != nil {
		t.Fatal(err)
	}
	pods := clients.CoreV1().Pods("default")
	eventually(t, func() error {
		log, err := pods.GetLogs("streams", &v1.PodLogOptions{Timestamps: true}).DoRaw(t.Context())
		if err == nil && !strings.HasSuffix(string(log), "Z started\n") {
			err = fmt.Errorf("log %q", log)
		}
		return err
	})

	address := &url.URL{
		Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", port), Path: "/exec/default/streams/c",
		RawQuery: url.Values{"command": {"sh", "-c", "cat; echo err >&2; exit 3"}, "input": {"1"}, "output": {"1"}, "error": {"1"}}.Encode(),
	}
	spdyExec, err := remotecommand.NewSPDYExecutor(n.Config, "POST", address)
	if err != nil {
		t.Fatal(err)
	}
	// Runtimes know the protocol without a way to end the input.
	socket := *address
	socket.RawQuery = url.Values{"command": {"sh", "-c", "echo -n in; echo err >&2; exit 3"}, "output": {"1"}, "error": {"1"}}.Encode()
	socketExec, err := remotecommand.NewWebSocketExecutorForProtocols(n.Config, "GET", socket.String(), "v4.channel.k8s.io")
	if err != nil {
		t.Fatal(err)
	}
	for name, executor := range map[string]remotecommand.Executor{"SPDY": spdyExec, "WebSocket": socketExec} {
		var out, errOut bytes.Buffer
		options := remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut}
		if executor == spdyExec {
			options.Stdin = strings.NewReader("in")
		}
		err := executor.StreamWithContext(t.Context(), options)
		var exit exec.CodeExitError
		if !errors.As(err, &exit) || exit.Code != 3 || out.String() != "in" || errOut.String() != "err\n" {
			t.Errorf("exec by %s: %v, %q, %q", name, err, out.String(), errOut.String())
		}
	}

	transport, upgrader, err := spdy.RoundTripperFor(n.Config)
	if err != nil {
		t.Fatal(err)
	}
	forward := &url.URL{Scheme: "https", Host: address.Host, Path: "/portForward/default/streams"}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", forward)
	stop, up := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.New(dialer, []string{"0:21251"}, stop, up, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-up:
	case err := <-ended:
		t.Fatal(err)
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/file", ports[0].Local))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	close(stop)
	if err := errors.Join(err, <-ended); err != nil || string(body) != "served\n" {
		t.Errorf("forwarded: %q, %v", body, err)
	}

	// A follower sees the end of the container.
	stream, err := pods.GetLogs("streams", &v1.PodLogOptions{Follow: true}).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if err := pods.Delete(t.Context(), "streams", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if log, err := io.ReadAll(stream); err != nil || string(log) != "started\n" {
		t.Errorf("followed %q, %v", log, err)
	}

	eventually(t, func() error {
		list, err := clients.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=streams"})
		if err != nil {
			return err
		}
		have := map[string]string{}
		for _, e := range list.Items {
			have[e.Reason] = e.Message
		}
		for reason, message := range map[string]string{
			"Pulled":  `Container image "skiff.local/busybox:1" already present on machine and can be accessed by the pod`,
			"Created": "Container created", "Started": "Container started", "Killing": "Stopping container c",
		} {
			if have[reason] != message {
				return fmt.Errorf("event %s says %q", reason, have[reason])
			}
		}
		return nil
	})
}
