//go:build e2e

// Package e2e_test holds what only whole clusters show: nodes in namespaces of
// their own, made by the built binary, with real containers and networks, and
// kubectl on top.
package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/internal/images/imagetest"
)

// patience is how long a condition may take to come true on a busy machine.
const patience = 3 * time.Minute

// testCluster is a cut-off development cluster, which ends with the test.
type testCluster struct {
	*testing.T
	name, home, binary string
	config             *rest.Config
	client             kubernetes.Interface
}

// start makes a cluster of n nodes with the busybox image on all of them.
func start(t *testing.T, name string, n int) *testCluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("namespaces and containers need root")
	}
	binary, err := filepath.Abs("../../bin/skiff")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("%v: run make build first", err)
	}
	c := &testCluster{T: t, name: name, home: t.TempDir(), binary: binary}
	t.Cleanup(func() {
		if t.Failed() {
			c.logs()
		}
		if out, err := c.command(context.Background(), nil, "down").CombinedOutput(); err != nil {
			t.Errorf("removing the cluster: %v\n%s", err, out)
		}
	})
	t.Log(c.skiff("up", "--isolated", "--nodes", fmt.Sprint(n)))
	archive := filepath.Join(t.TempDir(), "busybox.tar")
	if err := os.WriteFile(archive, imagetest.Busybox(t), 0o600); err != nil {
		t.Fatal(err)
	}
	c.skiff("image", "import", archive)
	if c.config, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig()); err != nil {
		t.Fatal(err)
	}
	c.config.QPS = -1
	if c.client, err = kubernetes.NewForConfig(c.config); err != nil {
		t.Fatal(err)
	}
	c.eventually("the default ServiceAccount", func(ctx context.Context) error {
		_, err := c.client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return c
}

// in returns the cluster as a subtest sees it.
func (c *testCluster) in(t *testing.T) *testCluster {
	sub := *c
	sub.T = t
	return &sub
}

func (c *testCluster) kubeconfig() string { return filepath.Join(c.home, "kubeconfig") }

// command is a skiff command on this cluster.
func (c *testCluster) command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.binary, args...)
	cmd.Env = append(os.Environ(), append(env, "SKIFF_HOME="+c.home, "SKIFF_CLUSTER="+c.name, "KUBECONFIG="+c.kubeconfig())...)
	return cmd
}

// skiff runs a command, which must succeed, and returns what it printed.
func (c *testCluster) skiff(args ...string) string {
	c.Helper()
	out, err := c.try(args...)
	if err != nil {
		c.Fatal(err)
	}
	return out
}

// try runs a command and returns what it printed on its standard output.
func (c *testCluster) try(args ...string) (string, error) {
	return c.tryWith(nil, "", args...)
}

func (c *testCluster) tryWith(env []string, input string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	cmd := c.command(ctx, env, args...)
	var out, problems bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &problems
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("skiff %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), problems.String())
	}
	return out.String(), nil
}

// kubectl runs a kubectl command, which must succeed.
func (c *testCluster) kubectl(args ...string) string {
	c.Helper()
	return c.skiff(append([]string{"kubectl"}, args...)...)
}

// apply applies manifests.
func (c *testCluster) apply(manifests string) {
	c.Helper()
	if _, err := c.tryWith(nil, manifests, "kubectl", "apply", "-f", "-"); err != nil {
		c.Fatal(err)
	}
}

// eventually returns when check does not fail any more.
func (c *testCluster) eventually(what string, check func(context.Context) error) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			c.Fatalf("%s: %v", what, err)
		case <-time.After(pause):
		}
	}
}

// pod returns a pod of the default namespace.
func (c *testCluster) pod(name string) *corev1.Pod {
	c.Helper()
	p, err := c.client.CoreV1().Pods("default").Get(c.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.Fatal(err)
	}
	return p
}

// logs shows what the nodes said.
func (c *testCluster) logs() {
	files, _ := filepath.Glob(filepath.Join(c.home, c.name, "*", "skiff.log"))
	for _, f := range files {
		text, err := os.ReadFile(f)
		c.Logf("%s: %v\n%s", f, err, text)
	}
}

// expect fails the test unless text holds all of the words.
func (c *testCluster) expect(text string, words ...string) {
	c.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			c.Errorf("%q is not in:\n%s", w, text)
		}
	}
}
