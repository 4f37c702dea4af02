package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// measureRest looks at a server with a large cluster in which nothing happens:
// first while the nodes renew their leases, then in the short time after that
// in which the nodes still count as alive.
func measureRest(ctx context.Context, b *bench) error {
	const nodes, pods, settle, span = 5000, 30000, 5 * time.Second, 10 * time.Second
	s, err := b.fresh(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	if err := s.namespace(ctx, namespace); err != nil {
		return err
	}
	quiet, err := s.makeNodes(ctx, nodes)
	if err != nil {
		return err
	}
	quiet = sync.OnceFunc(quiet)
	defer quiet()
	running, err := json.Marshal(map[string]any{"status": map[string]any{"phase": corev1.PodRunning}})
	if err != nil {
		return err
	}
	_, err = s.each(ctx, 32, pods, func(ctx context.Context, c *http.Client, i int) error {
		p := newPod(podName(i), nobody)
		p.Spec.NodeName = nodeName(i % nodes)
		if err := s.create(ctx, c, collection("pods"), p); err != nil {
			return err
		}
		return s.do(ctx, c, request{method: http.MethodPatch, path: collection("pods") + "/" + p.Name + "/status", body: running, patch: true}, nil)
	})
	if err != nil {
		return err
	}
	if err := wait(ctx, settle+span); err != nil {
		return err
	}
	what := fmt.Sprintf("%d nodes and %d pods at rest", nodes, pods)
	busy, _, err := s.load(ctx, span)
	if err != nil {
		return err
	}
	b.report(figure{what + ", processor time, 250 leases renewed each second", busy, "% of one", 0, true})
	quiet()
	if err := wait(ctx, settle); err != nil {
		return err
	}
	idle, after, err := s.load(ctx, span)
	if err != nil {
		return err
	}
	b.report(figure{what + ", processor time", idle, "% of one", 0, true})
	b.report(figure{what + ", resident memory", after.resident / 1e6, "MB", 0, true})
	return nil
}

// load returns the processor time that the server takes over a span, in percent
// of one processor, and what it holds afterwards.
func (s *server) load(ctx context.Context, span time.Duration) (percent float64, after usage, err error) {
	before, err := s.usage()
	if err != nil {
		return 0, after, err
	}
	began := time.Now()
	if err := wait(ctx, span); err != nil {
		return 0, after, err
	}
	if after, err = s.usage(); err != nil {
		return 0, after, err
	}
	return 100 * (after.cpu - before.cpu).Seconds() / time.Since(began).Seconds(), after, nil
}
