package shim

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// starter runs runc's commands, but for the one that starts a container: a
// container that was created waits for somebody to read from a FIFO, and to do
// that no program has to be loaded.
type starter struct{ runc.ProcessMonitor }

// startTimeout is how long a created container may take to see that it is read
// from. One that does not is left to runc, which says what is wrong.
const startTimeout = time.Second

// StartLocked implements runc.ProcessMonitor; the shim calls it for all of
// runc's commands.
func (s starter) StartLocked(c *exec.Cmd) (chan runc.Exit, error) {
	if fifo := startFIFO(c.Args); fifo == "" || release(fifo) != nil {
		return s.ProcessMonitor.StartLocked(c)
	}
	return nil, nil
}

// Wait implements runc.ProcessMonitor.
func (s starter) Wait(c *exec.Cmd, exits chan runc.Exit) (int, error) {
	if exits == nil {
		return 0, nil
	}
	return s.ProcessMonitor.Wait(c, exits)
}

// startFIFO returns the FIFO that a container waits for, if args are those of
// runc's command to start one, and runc it is that made the container.
func startFIFO(args []string) string {
	if len(args) < 5 || args[1] != "--root" || args[len(args)-2] != "start" {
		return ""
	}
	dir := filepath.Join(args[2], args[len(args)-1])
	if _, err := os.Stat(filepath.Join(dir, "state.json")); err != nil {
		return ""
	}
	return filepath.Join(dir, "exec.fifo")
}

// release lets the container go on that waits for a reader of the FIFO, and
// removes the FIFO, by which runc knows containers that have not started.
func release(fifo string) error {
	// Without a writer it could not be opened, and is not waited for, otherwise.
	fd, err := unix.Open(fifo, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := awaitInput(fd); err != nil {
		return err
	}
	if n, err := unix.Read(fd, make([]byte, 1)); n == 0 || err != nil {
		return errors.Join(io.ErrUnexpectedEOF, err)
	}
	return os.Remove(fifo)
}

// awaitInput returns once there is something to be read.
func awaitInput(fd int) error {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); {
		n, err := unix.Poll(poll, int(startTimeout.Milliseconds()))
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return os.ErrDeadlineExceeded
}
