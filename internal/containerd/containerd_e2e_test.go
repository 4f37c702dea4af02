//go:build e2e

package containerd_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/internal/containerd"
	"skiff/internal/containerd/runtimetest"
	"skiff/internal/images"
	"skiff/internal/images/imagetest"
)

func TestMain(m *testing.M) { runtimetest.Main(m) }

func TestPodLivesThroughRestarts(t *testing.T) {
	n := runtimetest.Start(t)
	cri := n.CRI
	ctx := t.Context()

	store, err := images.Open(n.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	names, err := store.Import(ctx, bytes.NewReader(imagetest.Busybox(t)), "")
	if err != nil || len(names) != 1 || names[0] != imagetest.BusyboxName {
		t.Fatalf("imported %v, %v", names, err)
	}
	if err := store.EnsurePause(ctx, containerd.PauseImage); err != nil {
		t.Fatal(err)
	}
	list, err := store.List(ctx)
	if err != nil || len(list) != 2 {
		t.Fatalf("list: %v, %v", list, err)
	}

	began := time.Now()
	pod := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "default", Uid: "1", Attempt: 1},
		LogDirectory: filepath.Join(n.DataDir, "logs"),
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
		}},
	}
	if err := os.Mkdir(pod.LogDirectory, 0o755); err != nil {
		t.Fatal(err)
	}
	sandbox, err := cri.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: pod})
	if err != nil {
		t.Fatal(err)
	}
	id := run(t, cri, sandbox.PodSandboxId, pod, "echo hello; exec sleep 1000")
	t.Logf("the pod ran after %v", time.Since(began))

	answer, err := cri.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo out; exit 3"}, Timeout: 10})
	if err != nil || string(answer.Stdout) != "out\n" || answer.ExitCode != 3 {
		t.Fatalf("exec: %v, %v", answer, err)
	}
	eventually(t, func() error {
		log, err := os.ReadFile(filepath.Join(pod.LogDirectory, "c.log"))
		if err == nil && !strings.HasSuffix(string(log), " stdout F hello\n") {
			err = fmt.Errorf("log is %q", log)
		}
		return err
	})

	// A second supervisor takes the child up.
	first := pid(t, n)
	n.Stop()
	n.Supervise(t)
	if again := pid(t, n); again != first {
		t.Fatalf("the second supervisor runs %d instead of %d", again, first)
	}
	// A crash is noticed, and the container goes on.
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-n.Ready
	if pid(t, n) == first {
		t.Fatal("the crashed child is named still")
	}
	status, err := cri.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil || status.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Fatalf("after a crash: %v, %v", status, err)
	}
	if _, err := cri.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	status, err = cri.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil || status.Status.State != runtimeapi.ContainerState_CONTAINER_EXITED || status.Status.ExitCode != 137 {
		t.Fatalf("after the stop: %v, %v", status, err)
	}
}

// run starts a container of the busybox image and returns its id.
func run(t *testing.T, cri runtimeapi.RuntimeServiceClient, sandbox string, pod *runtimeapi.PodSandboxConfig, script string) string {
	t.Helper()
	made, err := cri.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{
		PodSandboxId:  sandbox,
		SandboxConfig: pod,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "c"},
			Image:    &runtimeapi.ImageSpec{Image: imagetest.BusyboxName},
			Command:  []string{"sh", "-c", script},
			LogPath:  "c.log",
			Linux:    &runtimeapi.LinuxContainerConfig{},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cri.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		t.Fatal(err)
	}
	return made.ContainerId
}

func pid(t *testing.T, n *runtimetest.Node) (pid int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(n.StateDir, "containerd.pid"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	err := errors.New("not asked")
	for deadline := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		err = check()
	}
	if err != nil {
		t.Fatal(err)
	}
}
