package devnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// initSpec is what process 1 of a node is told on its standard input once the
// node's network and cgroups are there.
type initSpec struct {
	Hostname string `json:"hostname"`
	// Binds are mounted in order: host path to node path.
	Binds []bind `json:"binds"`
	// Files are written into the node; see mountSpec.
	Files []nodeFile `json:"files"`
	// Command is supervised; its program is an absolute path.
	Command []string `json:"command"`
	// Notify is the datagram socket that gets the command's READY=1 and the
	// news of its end.
	Notify string `json:"notify"`
}

// statusFD is where process 1 writes one line about its set-up: empty when it
// went well.
const statusFD = 3

const (
	minRestart = 200 * time.Millisecond
	maxRestart = 10 * time.Second
	// stopTimeout is how long the command may take to end by itself.
	stopTimeout = 10 * time.Second
)

// Init is process 1 of a node's PID namespace: it sets up the node's mounts,
// then runs the node's command and starts it again when it ends, and reaps
// what is left to it. SIGTERM ends it and with it the node; SIGHUP restarts
// the command, which pods survive.
func Init(log *slog.Logger) error {
	status := os.NewFile(statusFD, "status")
	if status == nil || os.Getpid() != 1 {
		return errors.New("node-init is process 1 of a development node; skiff up starts it")
	}
	unix.CloseOnExec(statusFD)
	spec, err := readSpec(os.Stdin)
	if err == nil {
		err = setUp(spec)
	}
	if err != nil {
		fmt.Fprintln(status, err)
		return err
	}
	status.Close()
	s := &supervisor{log: log, spec: spec, signals: make(chan os.Signal, 64)}
	signal.Notify(s.signals, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	return s.run(context.Background())
}

func readSpec(r io.Reader) (*initSpec, error) {
	spec := &initSpec{}
	if err := json.NewDecoder(r).Decode(spec); err != nil {
		return nil, fmt.Errorf("reading what the node is to be: %w", err)
	}
	return spec, nil
}

func setUp(spec *initSpec) error {
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	if err := mountNode(spec); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("letting the node forward packets: %w", err)
	}
	return nil
}

// supervisor keeps one command running. It is the only one in the process to
// wait for children, because as process 1 it gets those of others, too.
type supervisor struct {
	log     *slog.Logger
	spec    *initSpec
	signals chan os.Signal

	pid     int // of the running command, or 0
	started time.Time
	backoff time.Duration
}

func (s *supervisor) run(ctx context.Context) error {
	var restart, kill <-chan time.Time
	ending := false
	if err := s.start(); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-kill:
			s.signal(syscall.SIGKILL)
		case <-restart:
			restart = nil
			if err := s.start(); err != nil {
				s.log.Error("the node's command cannot be started", "err", err)
				restart = time.After(s.delay())
			}
		case got := <-s.signals:
			switch got {
			case syscall.SIGCHLD:
				if !s.reap() {
					continue
				}
				if ending {
					return nil
				}
				restart, kill = time.After(s.delay()), nil
			case syscall.SIGHUP:
				s.signal(syscall.SIGTERM)
				kill = time.After(stopTimeout)
			default:
				if s.pid == 0 {
					return nil
				}
				ending = true
				s.signal(syscall.SIGTERM)
				kill = time.After(stopTimeout)
			}
		}
	}
}

func (s *supervisor) start() error {
	nothing, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer nothing.Close()
	p, err := os.StartProcess(s.spec.Command[0], s.spec.Command, &os.ProcAttr{
		Dir:   "/",
		Env:   append(os.Environ(), "NOTIFY_SOCKET="+s.spec.Notify),
		Files: []*os.File{nothing, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("starting %q: %w", s.spec.Command, err)
	}
	s.pid, s.started = p.Pid, time.Now()
	return p.Release()
}

func (s *supervisor) signal(sig syscall.Signal) {
	if s.pid != 0 {
		syscall.Kill(s.pid, sig)
	}
}

// reap takes every child that has ended and reports whether the command is one
// of them.
func (s *supervisor) reap() (ended bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if pid <= 0 || err != nil {
			return ended
		}
		if pid != s.pid {
			continue
		}
		s.pid, ended = 0, true
		s.log.Warn("the node's command ended", "status", status.ExitStatus(), "signal", status.Signal())
		if err := notify(s.spec.Notify, fmt.Sprintf("%s%d", exitPrefix, status.ExitStatus())); err != nil {
			s.log.Debug("nobody is told of the end", "err", err)
		}
	}
}

// delay is how long to wait before the next start: longer the more often the
// command ended soon.
func (s *supervisor) delay() time.Duration {
	if time.Since(s.started) > maxRestart {
		s.backoff = 0
	}
	s.backoff = min(max(2*s.backoff, minRestart), maxRestart)
	return s.backoff
}
