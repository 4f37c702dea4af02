package shim

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// commands notes the commands that are left to runc.
type commands struct {
	runc.ProcessMonitor
	run []string
}

func (c *commands) StartLocked(cmd *exec.Cmd) (chan runc.Exit, error) {
	c.run = append(c.run, cmd.Args[len(cmd.Args)-2])
	return make(chan runc.Exit), nil
}

// created makes what runc leaves of a container that it has created.
func created(t *testing.T) (root, fifo string) {
	t.Helper()
	root = t.TempDir()
	dir := filepath.Join(root, "id")
	fifo = filepath.Join(dir, "exec.fifo")
	if err := errors.Join(os.Mkdir(dir, 0o700), unix.Mkfifo(fifo, 0o622), os.WriteFile(filepath.Join(dir, "state.json"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	return root, fifo
}

func command(root, name string) *exec.Cmd {
	return exec.Command("runc", "--root", root, "--log", "log.json", "--log-format", "json", name, "id")
}

func TestStartReleasesTheContainer(t *testing.T) {
	root, fifo := created(t)
	container := make(chan error, 1)
	go func() {
		// As runc's init does, which waits here for a reader.
		f, err := os.OpenFile(fifo, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.Write([]byte("0"))
			err = errors.Join(err, f.Close())
		}
		container <- err
	}()
	left := &commands{}
	s, cmd := starter{left}, command(root, "start")
	exits, err := s.StartLocked(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if len(left.run) > 0 {
		// The machine may be so slow that the container came too late.
		t.Skipf("the container was not there within %v", startTimeout)
	}
	if status, err := s.Wait(cmd, exits); status != 0 || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
	if err := <-container; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(fifo); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the FIFO is left, so that the container is taken for one that waits: %v", err)
	}
}

func TestWhatCannotBeReleasedIsLeftToRunc(t *testing.T) {
	root, fifo := created(t)
	left := &commands{}
	s := starter{left}
	start := func(name string) {
		t.Helper()
		exits, err := s.StartLocked(command(root, name))
		if err != nil || exits == nil {
			t.Errorf("%s: %v, %v", name, exits, err)
		}
	}
	start("start") // nobody is there to be released
	if _, err := os.Stat(fifo); err != nil {
		t.Errorf("the FIFO of a container that did not start: %v", err)
	}
	start("delete")
	if err := os.Remove(filepath.Join(root, "id", "state.json")); err != nil {
		t.Fatal(err)
	}
	start("start") // made by another program than runc
	if len(left.run) != 3 {
		t.Errorf("left to runc were %v", left.run)
	}
}
