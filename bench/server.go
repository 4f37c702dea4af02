package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A server is a control plane as a child process.
type server struct {
	*api
	// readyAfter is the time from its start to the first good answer of
	// /readyz.
	readyAfter time.Duration

	cmd    *exec.Cmd
	exited chan error
	log    *bytes.Buffer
}

// startServer starts a server on the data below dir and waits until it is
// ready. The caller stops it.
func (b *bench) startServer(ctx context.Context, dir string) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &server{exited: make(chan error, 1), log: &bytes.Buffer{}}
	s.cmd = exec.Command(b.binary, "server", "--disable-node", "--data-dir", dir, "--log-level", "warn",
		"--cluster-cidr", "10.64.0.0/11", "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--node-ip", "127.0.0.1", "--port", strconv.Itoa(port))
	s.cmd.Stderr = s.log
	// The server must not outlive this process, however that ends.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { s.exited <- s.cmd.Wait() }()
	anonymous := &api{base: "https://127.0.0.1:" + strconv.Itoa(port), tls: anyServer()}
	if err := s.untilReady(ctx, anonymous); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	s.readyAfter = time.Since(began)
	if s.api, err = s.admin(ctx, filepath.Join(dir, "admin.kubeconfig")); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// fresh starts a server with nothing stored.
func (b *bench) fresh(ctx context.Context) (*server, error) {
	dir, err := os.MkdirTemp(b.dir, "server-")
	if err != nil {
		return nil, err
	}
	return b.startServer(ctx, dir)
}

func (s *server) untilReady(ctx context.Context, a *api) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c := a.client()
	defer c.CloseIdleConnections()
	return s.poll(ctx, func() error { return a.do(ctx, c, request{method: http.MethodGet, path: "/readyz"}, nil) })
}

// admin waits for the administrator's kubeconfig, which is written soon after
// the server is ready.
func (s *server) admin(ctx context.Context, path string) (a *api, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = s.poll(ctx, func() error {
		a, err = fromKubeconfig(path)
		return err
	})
	return a, err
}

// poll calls f every few milliseconds until it succeeds, the server ends or
// ctx does.
func (s *server) poll(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case ended := <-s.exited:
			s.exited <- ended
			return fmt.Errorf("the server ended (%v): %s", ended, s.log)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// stop ends the server as its service manager would.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(30 * time.Second):
		return errors.Join(errors.New("the server did not end within 30 s"), s.cmd.Process.Kill())
	}
}

// A usage is what a process holds and has used.
type usage struct {
	// resident is all its memory, anonymous that which no file backs; bytes.
	resident, anonymous float64
	cpu                 time.Duration
}

// ticksPerSecond is USER_HZ, which is 100 on every Linux architecture that Go
// knows.
const ticksPerSecond = 100

func (s *server) usage() (usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(s.cmd.Process.Pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return usage{}, err
	}
	var u usage
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		kib, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			u.resident = kib * 1024
		case "RssAnon:":
			u.anonymous = kib * 1024
		}
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return usage{}, err
	}
	// The name in parentheses may hold anything; utime and stime are the 14th
	// and 15th fields (proc(5)).
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, text := range f[11:13] {
		ticks, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return usage{}, err
		}
		u.cpu += time.Duration(ticks) * time.Second / ticksPerSecond
	}
	return u, nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// measureStart starts a server on an empty directory, and then again on what
// that left.
func measureStart(ctx context.Context, b *bench) error {
	var first, again []time.Duration
	for range 5 {
		dir, err := os.MkdirTemp(b.dir, "start-")
		if err != nil {
			return err
		}
		for _, times := range []*[]time.Duration{&first, &again} {
			s, err := b.startServer(ctx, dir)
			if err != nil {
				return err
			}
			*times = append(*times, s.readyAfter)
			if err := s.stop(); err != nil {
				return err
			}
		}
	}
	b.report(figure{"start to /readyz, first start (median of 5)", percentile(first, 50).Seconds(), "s", upstreamReady, true})
	b.report(figure{"start to /readyz, later start (median of 5)", percentile(again, 50).Seconds(), "s", upstreamReady, true})
	return nil
}

func measureIdle(ctx context.Context, b *bench) error {
	const settle, watched = 10 * time.Second, 30 * time.Second
	s, err := b.fresh(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	if err := wait(ctx, settle); err != nil {
		return err
	}
	busy, after, err := s.load(ctx, watched)
	if err != nil {
		return err
	}
	b.report(figure{"idle: resident memory", after.resident / 1e6, "MB", upstreamIdle, true})
	b.report(figure{"idle: anonymous memory", after.anonymous / 1e6, "MB", 0, true})
	b.report(figure{"idle: processor time over 30 s", busy, "% of one", 0, true})
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
