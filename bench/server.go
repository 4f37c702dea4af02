package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// A server is a control plane as child processes.
type server struct {
	*api
	// readyAfter is the time from its start to the first good answer of
	// /readyz.
	readyAfter time.Duration

	processes []*process
}

// startServer starts a server on the data below dir and waits until it is
// ready. The caller stops it.
func (b *bench) startServer(ctx context.Context, dir string) (*server, error) {
	if b.asUpstream {
		return b.startUpstream(ctx, dir)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	p, err := start(b.binary, "server", "--disable-node", "--data-dir", dir, "--log-level", "warn",
		"--cluster-cidr", "10.64.0.0/11", "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--node-ip", "127.0.0.1", "--port", strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	s := &server{processes: []*process{p}}
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

// poll calls f every few milliseconds until it succeeds, a process of the
// server's ends or ctx does.
func (s *server) poll(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil {
			return nil
		}
		for _, p := range s.processes {
			if err := p.ended(); err != nil {
				return err
			}
		}
		if wait(ctx, 2*time.Millisecond) != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// stop ends the server's processes, in the order opposite to that of their start.
func (s *server) stop() error {
	var errs []error
	for _, p := range slices.Backward(s.processes) {
		errs = append(errs, p.stop())
	}
	return errors.Join(errs...)
}

func (s *server) usage() (usage, error) {
	var u usage
	for _, p := range s.processes {
		if err := u.add(p); err != nil {
			return u, err
		}
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
