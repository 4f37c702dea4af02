//go:build e2e

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/internal/cluster"
	"skiff/internal/cluster/server"
	"skiff/internal/store/etcd/member/membertest"
)

// localServer is a control plane with controllers and scheduler in this
// process.
type localServer struct {
	client kubernetes.Interface
	cancel context.CancelFunc
	ended  chan error
}

// startLocal runs a server until the test ends or stop is called.
func startLocal(t *testing.T, c cluster.ServerConfig) *localServer {
	t.Helper()
	loopback := netip.MustParseAddr("127.0.0.1")
	c.BindAddress, c.AdvertiseAddress, c.Node.IP = loopback, loopback, loopback
	c.DisableNode, c.DataDir = true, t.TempDir()
	c.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	ready := make(chan struct{})
	c.Ready = func() { close(ready) }
	ctx, cancel := context.WithCancel(context.Background())
	s := &localServer{cancel: cancel, ended: make(chan error, 1)}
	go func() { s.ended <- server.Run(ctx, c) }()
	t.Cleanup(s.stop)
	select {
	case <-ready:
	case err := <-s.ended:
		s.ended <- err
		t.Fatalf("the server ended: %v", err)
	}
	s.client = clientOf(t, filepath.Join(c.DataDir, "admin.kubeconfig"))
	return s
}

func (s *localServer) stop() {
	s.cancel()
	err := <-s.ended
	s.ended <- err
}

func clientOf(t *testing.T, kubeconfig string) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Timeout = -1, 10*time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// works shows that a server's controllers and scheduler do their work: the
// pods of a Deployment are made, and bound to a node.
func works(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	node.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("10"), corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")}
	node.Status.Capacity = node.Status.Allocatable
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
	if _, err := client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "image"}},
		}},
	}}
	if _, err := client.AppsV1().Deployments("default").Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	soon(t, "a pod of "+name+" is bound", func(ctx context.Context) error {
		pods, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
		if err != nil {
			return err
		}
		if len(pods.Items) != 1 || pods.Items[0].Spec.NodeName == "" {
			return fmt.Errorf("%d pods: %+v", len(pods.Items), pods.Items)
		}
		return nil
	})
}

// soon returns when check does not fail any more.
func soon(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	(&testCluster{T: t}).eventually(what, check)
}

// TestTwoClustersInOneProcess shows that nothing of a cluster belongs to the
// process.
func TestTwoClustersInOneProcess(t *testing.T) {
	one, two := startLocal(t, cluster.ServerConfig{}), startLocal(t, cluster.ServerConfig{})
	works(t, one.client, "one")
	if _, err := two.client.AppsV1().Deployments("default").Get(t.Context(), "one", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the other cluster has it: %v", err)
	}
	one.stop()
	works(t, two.client, "two")
}

// TestServersShareAnEtcd is about two servers on one etcd: what one has
// acknowledged the other shows at once, and one of them leads.
func TestServersShareAnEtcd(t *testing.T) {
	o := membertest.Options(t, "etcd")
	membertest.Start(t, o)
	store := cluster.DatastoreConfig{Endpoints: []string{o.ClientURL}}
	one, two := startLocal(t, cluster.ServerConfig{Datastore: store}), startLocal(t, cluster.ServerConfig{Datastore: store})
	for i := range 50 {
		from, to := one.client, two.client
		if i%2 == 1 {
			from, to = to, from
		}
		name := fmt.Sprintf("c%d", i)
		if _, err := from.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := to.CoreV1().ConfigMaps("default").Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			t.Fatalf("what one server has acknowledged the other does not show: %v", err)
		}
	}
	works(t, two.client, "led-by-the-first")
	// The leader gives its lease back, so that the other need not wait for its
	// end.
	one.stop()
	works(t, two.client, "led-by-the-second")
}

// TestKilledServer kills a server that many write to, again and again: what it
// has acknowledged is there, at the revision that it said.
func TestKilledServer(t *testing.T) {
	binary, err := filepath.Abs("../../bin/skiff")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	acknowledged := map[string]corev1.ConfigMap{}
	for round := range 8 {
		stop := startKillable(t, binary, dir)
		client := clientOf(t, filepath.Join(dir, "admin.kubeconfig"))
		list, err := client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]corev1.ConfigMap{}
		for _, c := range list.Items {
			have[c.Name] = c
		}
		newest := number(t, list.ResourceVersion)
		for name, want := range acknowledged {
			got, ok := have[name]
			if !ok {
				t.Fatalf("round %d: %s was acknowledged at %s and is lost", round, name, want.ResourceVersion)
			}
			is, was := number(t, got.ResourceVersion), number(t, want.ResourceVersion)
			// A write whose answer the kill cut off may have been made.
			if is < was || is == was && got.Data["n"] != want.Data["n"] || is > newest {
				t.Fatalf("round %d: %s was acknowledged with %s at %d and is %s at %d of %d", round, name, want.Data["n"], was, got.Data["n"], is, newest)
			}
		}
		for name, c := range writeUntil(t, client, round, have, stop) {
			acknowledged[name] = c
		}
	}
	t.Logf("%d objects survived", len(acknowledged))
}

func number(t *testing.T, revision string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(revision, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// startKillable starts a server as a process of its own and returns what kills
// it.
func startKillable(t *testing.T, binary, dir string) (kill func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	cmd := exec.Command(binary, "server", "--disable-node", "--data-dir", dir, "--log-level", "warn", "--node-name", "test", "--node-ip", "127.0.0.1",
		"--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--port", strconv.Itoa(port))
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	t.Cleanup(kill)
	soon(t, "the server is ready", func(ctx context.Context) error {
		kubeconfig := filepath.Join(dir, "admin.kubeconfig")
		if _, err := os.Stat(kubeconfig); err != nil {
			return err
		}
		text, err := clientOf(t, kubeconfig).Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if err == nil && string(text) != "ok" {
			err = errors.New(string(text))
		}
		return err
	})
	return kill
}

// writeUntil writes with eight clients until stop, which comes soon, has
// killed the server, and returns the last that was acknowledged of each object.
func writeUntil(t *testing.T, client kubernetes.Interface, round int, have map[string]corev1.ConfigMap, stop func()) map[string]corev1.ConfigMap {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	api := client.CoreV1().ConfigMaps("default")
	var mu sync.Mutex
	last := map[string]corev1.ConfigMap{}
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("w%d-%d", w, n%20)}, Data: map[string]string{"n": fmt.Sprintf("%d/%d", round, n)}}
				mu.Lock()
				_, known := have[c.Name]
				_, made := last[c.Name]
				mu.Unlock()
				var got *corev1.ConfigMap
				var err error
				if known || made {
					got, err = api.Update(ctx, c, metav1.UpdateOptions{})
				} else {
					got, err = api.Create(ctx, c, metav1.CreateOptions{})
				}
				if err != nil {
					return
				}
				mu.Lock()
				last[c.Name] = *got
				mu.Unlock()
			}
		})
	}
	<-time.After(time.Duration(100+rand.IntN(500)) * time.Millisecond)
	stop()
	cancel()
	writers.Wait()
	if len(last) == 0 {
		t.Fatalf("round %d: nothing was acknowledged before the kill", round)
	}
	return last
}
