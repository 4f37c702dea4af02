// Package runtimetest gives tests a container runtime of their own, run by the
// test's own binary.
package runtimetest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/internal/containerd"
	"skiff/internal/containerd/daemon"
	"skiff/internal/images"
	"skiff/internal/images/imagetest"
)

// Main is for TestMain of a package that calls Start: it makes the test's binary
// what the real one is, containerd and its shim, too.
func Main(m *testing.M) {
	if main := daemon.Main(os.Args); main != nil {
		if err := main(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// Node is a supervised container runtime with its own directories. The pause
// image and imagetest.BusyboxName are in its store.
type Node struct {
	containerd.Config
	CRI runtimeapi.RuntimeServiceClient
	// Ready gets a value when the runtime has become ready, after the first
	// time.
	Ready chan struct{}
	// Stop ends the supervision and leaves the runtime running.
	Stop func()
}

// Start starts a runtime. When the test ends, all its pods are removed and it
// is stopped. The test is skipped where containers cannot run.
func Start(t testing.TB) *Node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	n := &Node{Ready: make(chan struct{}, 10)}
	var err error
	n.Config, err = containerd.Config{
		DataDir: t.TempDir(),
		Log:     slog.New(slog.NewTextHandler(t.Output(), nil)),
	}.Defaults()
	if err != nil {
		t.Skip(err)
	}
	n.Config.Ready = func() { n.Ready <- struct{}{} }
	t.Cleanup(func() { n.end(t) })
	n.Supervise(t)

	conn, err := grpc.NewClient(n.Endpoint(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	n.CRI = runtimeapi.NewRuntimeServiceClient(conn)
	t.Cleanup(func() { n.removePods(t) })

	store, err := images.Open(n.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.EnsurePause(t.Context(), containerd.PauseImage); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Import(t.Context(), bytes.NewReader(imagetest.Busybox(t)), ""); err != nil {
		t.Fatal(err)
	}
	return n
}

// Supervise begins to supervise the runtime, which starts it unless it runs,
// and returns when it is ready.
func (n *Node) Supervise(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- containerd.Supervise(ctx, n.Config) }()
	n.Stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		ended <- nil
	}
	select {
	case <-n.Ready:
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
}

func (n *Node) removePods(t testing.TB) {
	ctx := context.Background()
	pods, err := n.CRI.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		t.Error(err)
		return
	}
	for _, pod := range pods.Items {
		if _, err := n.CRI.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
			t.Error(err)
		}
		if _, err := n.CRI.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
			t.Error(err)
		}
	}
}

func (n *Node) end(t testing.TB) {
	n.Stop()
	if err := containerd.Stop(context.Background(), n.Config); err != nil {
		t.Error(err)
	}
	if log, _ := os.ReadFile(filepath.Join(n.DataDir, "containerd.log")); t.Failed() {
		t.Logf("containerd's log:\n%s", log)
	}
	if err := os.RemoveAll(n.StateDir); err != nil {
		t.Error(err)
	}
}
