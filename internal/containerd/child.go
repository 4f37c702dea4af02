package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopTimeout is how long a child may take to end by itself.
const stopTimeout = 10 * time.Second

// child is a process that is watched through a pidfd, whoever its parent is.
type child struct {
	pid  int
	file *os.File
	// done is closed when the process has ended.
	done chan struct{}
}

// watch begins to watch a running process; ESRCH means that there is none.
func watch(pid int) (*child, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	c := &child{pid: pid, file: os.NewFile(uintptr(fd), "pidfd"), done: make(chan struct{})}
	conn, err := c.file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, c.file.Close())
	}
	go func() {
		// A pidfd becomes readable when its process ends.
		conn.Read(func(fd uintptr) bool {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(poll, 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		})
		close(c.done)
		c.file.Close()
	}()
	return c, nil
}

// runs reports whether the process runs the program at path as it is now.
func (c *child) runs(path string) bool {
	exe, err := os.Stat(fmt.Sprintf("/proc/%d/exe", c.pid))
	if err != nil {
		return false
	}
	program, err := os.Stat(path)
	return err == nil && os.SameFile(exe, program)
}

// stop ends the process in an orderly way and waits for its end.
func (c *child) stop(ctx context.Context) error {
	if err := c.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(stopTimeout):
		c.kill()
	}
	<-c.done
	return nil
}

func (c *child) kill() { c.signal(syscall.SIGKILL) }

// signal sends s unless the process has ended.
func (c *child) signal(s syscall.Signal) error {
	conn, err := c.file.SyscallConn()
	if err != nil {
		return nil // closed: the process has ended
	}
	var sent error
	if err := conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), s, nil, 0) }); err != nil {
		return nil
	}
	if errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return sent
}
