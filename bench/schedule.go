package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// measureSchedule makes pods, as fast as the API takes them, on nodes that
// nobody runs, and stops the time when the last one is bound: making the pods
// is part of it.
func measureSchedule(ctx context.Context, b *bench) error {
	for _, nodes := range []int{1000, 5000} {
		if err := scheduleOn(ctx, b, nodes, 2*nodes); err != nil {
			return fmt.Errorf("%d nodes: %w", nodes, err)
		}
	}
	return nil
}

func scheduleOn(ctx context.Context, b *bench, nodes, pods int) error {
	s, err := b.fresh(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	if err := s.namespace(ctx, namespace); err != nil {
		return err
	}
	if err := s.makeNodes(ctx, nodes); err != nil {
		return err
	}
	heartbeats, stopHeartbeats := context.WithCancel(ctx)
	stopped := make(chan error, 1)
	go func() { stopped <- s.heartbeats(heartbeats, nodes) }()
	defer func() { stopHeartbeats(); <-stopped }()

	const span = 3 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	bound := make(chan int, 1)
	watching, err := s.watchBound(ctx, pods, bound)
	if err != nil {
		return err
	}
	defer watching()
	began := time.Now()
	if _, err := s.createPods(ctx, 32, pods, corev1.DefaultSchedulerName); err != nil {
		return err
	}
	if n := <-bound; n < pods {
		return fmt.Errorf("only %d of %d pods were bound within %v", n, pods, span)
	}
	rate := float64(pods) / time.Since(began).Seconds()
	b.report(figure{fmt.Sprintf("pods made and bound, %d nodes", nodes), rate, "/s", upstreamScheduled, false})
	return nil
}

// makeNodes makes nodes as their kubelets would, and waits until the control
// plane has taken the taint of new ones away.
func (a *api) makeNodes(ctx context.Context, n int) error {
	_, err := a.each(ctx, 16, n, func(ctx context.Context, c *http.Client, i int) error {
		node := newNode(i)
		if err := a.create(ctx, c, "/api/v1/nodes", node); err != nil {
			return err
		}
		seconds := int32(40)
		now := metav1.NowMicro()
		return a.create(ctx, c, leases, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: node.Name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &node.Name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		})
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c := a.client()
	defer c.CloseIdleConnections()
	for {
		var list corev1.NodeList
		if err := a.do(ctx, c, request{method: http.MethodGet, path: "/api/v1/nodes"}, &list); err != nil {
			return fmt.Errorf("waiting for the nodes' taints to go: %w", err)
		}
		tainted := 0
		for i := range list.Items {
			if len(list.Items[i].Spec.Taints) > 0 {
				tainted++
			}
		}
		if tainted == 0 && len(list.Items) == n {
			return nil
		}
		if wait(ctx, 200*time.Millisecond) != nil {
			return fmt.Errorf("%d of %d nodes still have taints", tainted, len(list.Items))
		}
	}
}

const leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"

// heartbeats renews the nodes' leases, each every 20 seconds, until ctx ends.
func (a *api) heartbeats(ctx context.Context, nodes int) error {
	c := a.client()
	defer c.CloseIdleConnections()
	tick := time.NewTicker(20 * time.Second / time.Duration(nodes))
	defer tick.Stop()
	for i := 0; ; i = (i + 1) % nodes {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		patch, err := json.Marshal(map[string]any{"spec": map[string]any{"renewTime": metav1.NowMicro()}})
		if err != nil {
			return err
		}
		if err := a.do(ctx, c, request{method: http.MethodPatch, path: leases + "/" + nodeName(i), body: patch, patch: true}, nil); err != nil {
			return err
		}
	}
}

// watchBound sends the number of pods that were bound once it is n or ctx ends.
func (a *api) watchBound(ctx context.Context, n int, bound chan<- int) (stop func(), err error) {
	c := a.client()
	body, err := a.open(ctx, c, request{
		method: http.MethodGet, path: collection("pods") + "?watch=true&resourceVersion=0&fieldSelector=spec.nodeName!%3D",
		accept: mediaProtobuf + ";stream=watch",
	})
	if err != nil {
		return nil, err
	}
	go func() {
		seen := 0
		// Its end is told by the number.
		_ = frames(body, func(frame []byte) bool {
			if kind, err := eventType(frame); err == nil && kind == "ADDED" {
				seen++
			}
			return seen < n
		})
		bound <- seen
	}()
	return func() { body.Close(); c.CloseIdleConnections() }, nil
}
