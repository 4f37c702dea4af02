package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// startTimeout is how long a child may take until it serves CRI.
	startTimeout = 30 * time.Second
	// A child that ends is started again after minBackoff, doubled for each
	// end within stableAfter of its start, up to maxBackoff.
	minBackoff  = 100 * time.Millisecond
	maxBackoff  = 30 * time.Second
	stableAfter = time.Minute
	// maxLog is the size in bytes at which the child's log is put aside when
	// it starts.
	maxLog = 16 << 20
)

// Supervise keeps containerd running until ctx ends, and then leaves it
// running. A child that is found running from the same binary with the same
// configuration is taken up instead of starting a second one; a different one
// is ended first, which containers survive. The error says why no child could
// be started at all; a child that crashes later is restarted.
func Supervise(ctx context.Context, c Config) error {
	c, err := c.Defaults()
	if err != nil {
		return err
	}
	if err := Check(c); err != nil {
		return err
	}
	changed, err := c.write()
	if err != nil {
		return err
	}
	child, err := c.adopt(ctx, changed)
	if err != nil {
		return err
	}
	wait := minBackoff
	for started := time.Now(); ; started = time.Now() {
		if child == nil {
			if child, err = c.start(); err != nil {
				return err
			}
		}
		if err := c.awaitReady(ctx, child); err == nil {
			c.Log.Info("containerd is ready", "pid", child.pid, "socket", c.Socket())
			if c.Ready != nil {
				c.Ready()
			}
		} else if ctx.Err() == nil {
			c.Log.Error("containerd did not become ready", "pid", child.pid, "err", err, "log", c.logFile())
			child.kill()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-child.done:
		}
		if time.Since(started) > stableAfter {
			wait = minBackoff
		}
		c.Log.Warn("containerd ended and is started again", "pid", child.pid, "after", wait, "log", c.logFile())
		child = nil
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, maxBackoff)
	}
}

// Stop ends a running child of c, if there is one; containers go on.
func Stop(ctx context.Context, c Config) error {
	c, err := c.Defaults()
	if err != nil {
		return err
	}
	child, err := c.running()
	if child == nil || err != nil {
		return err
	}
	return child.stop(ctx)
}

// write makes the directories, links and configuration, and reports whether
// the configuration differs from the one that was there.
func (c *Config) write() (changed bool, err error) {
	for _, dir := range []string{c.DataDir, c.StateDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return false, fmt.Errorf("making a directory of the container runtime: %w", err)
		}
	}
	if err := c.Link(); err != nil {
		return false, err
	}
	text, err := c.toml()
	if err != nil {
		return false, fmt.Errorf("rendering containerd's configuration: %w", err)
	}
	old, err := os.ReadFile(c.configFile())
	if err == nil && bytes.Equal(old, text) {
		return false, nil
	}
	if err := os.WriteFile(c.configFile(), text, 0o600); err != nil {
		return false, fmt.Errorf("writing containerd's configuration: %w", err)
	}
	return true, nil
}

// adopt returns the running child, or nil where there is none that can be kept.
func (c *Config) adopt(ctx context.Context, changed bool) (*child, error) {
	child, err := c.running()
	if child == nil || err != nil {
		return nil, err
	}
	if !changed && child.runs(c.Binary) {
		c.Log.Info("taking up the running containerd", "pid", child.pid)
		return child, nil
	}
	c.Log.Info("replacing the running containerd, whose program or configuration is another", "pid", child.pid)
	return nil, child.stop(ctx)
}

// running finds the child that the pid file names, or nil. A process that is
// not a containerd with our configuration has got the number by chance.
func (c *Config) running() (*child, error) {
	text, err := os.ReadFile(c.pidFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, nil
	}
	found, err := watch(pid)
	if errors.Is(err, syscall.ESRCH) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("watching process %d: %w", pid, err)
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(cmdline, []byte(c.configFile())) {
		return nil, nil
	}
	return found, nil
}

// start starts a new child in a session of its own, so that no signal meant
// for the supervisor reaches it.
func (c *Config) start() (*child, error) {
	log, err := c.openLog()
	if err != nil {
		return nil, fmt.Errorf("opening containerd's log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(c.Binary, "containerd", "--config", c.configFile())
	cmd.Dir = "/"
	// The daemon is mostly idle: a small heap matters more than the
	// collector's work.
	cmd.Env = append(environ(), "GOGC=40", "GOMEMLIMIT=256MiB",
		// After its own restart containerd finds some shims by name only.
		"PATH="+c.BinDir()+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting containerd: %w", err)
	}
	child, err := watch(cmd.Process.Pid)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watching containerd: %w", err), cmd.Process.Kill(), cmd.Wait())
	}
	go cmd.Wait() // reap it; child.done tells that it ended
	return child, os.WriteFile(c.pidFile(), []byte(strconv.Itoa(child.pid)), 0o644)
}

// environ is the environment without what lets a process speak for us to our
// own service manager.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
}

func (c *Config) openLog() (*os.File, error) {
	if info, err := os.Stat(c.logFile()); err == nil && info.Size() > maxLog {
		if err := os.Rename(c.logFile(), c.logFile()+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(c.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// awaitReady returns when the child serves CRI calls.
func (c *Config) awaitReady(ctx context.Context, child *child) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	go func() {
		select {
		case <-child.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	conn, err := grpc.NewClient(c.Endpoint(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.2, MaxDelay: 200 * time.Millisecond},
		}))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{}, grpc.WaitForReady(true))
	return err
}
