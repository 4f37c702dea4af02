package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"skiff/internal/containerd"
)

// measureUp makes a cluster of one node, cut off from the outside, and starts
// pods in it whose image every node has.
func measureUp(ctx context.Context, b *bench) (err error) {
	const name = "bench"
	kubeconfig := filepath.Join(b.dir, "kubeconfig")
	skiff := func(ctx context.Context, args ...string) error {
		cmd := exec.CommandContext(ctx, b.binary, append(args, "--name", name, "--home", filepath.Join(b.dir, "clusters"))...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("skiff %s: %w: %s", args[0], err, text)
		}
		return nil
	}
	defer func() {
		down, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, skiff(down, "down"))
	}()
	began := time.Now()
	if err := skiff(ctx, "up", "--isolated"); err != nil {
		return err
	}
	b.report(figure{"skiff up returned", time.Since(began).Seconds(), "s", 0, true})
	a, err := fromKubeconfig(kubeconfig)
	if err != nil {
		return err
	}
	if err := a.nodeReady(ctx); err != nil {
		return err
	}
	b.report(figure{"skiff up to node Ready", time.Since(began).Seconds(), "s", 0, true})
	if err := a.namespace(ctx, namespace); err != nil {
		return err
	}
	return a.startPods(ctx, b)
}

// nodeReady returns once a node is Ready.
func (a *api) nodeReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c := a.client()
	defer c.CloseIdleConnections()
	for {
		var list corev1.NodeList
		if err := a.do(ctx, c, request{method: http.MethodGet, path: "/api/v1/nodes"}, &list); err != nil {
			return err
		}
		for i := range list.Items {
			for _, condition := range list.Items[i].Status.Conditions {
				if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
					return nil
				}
			}
		}
		if wait(ctx, 10*time.Millisecond) != nil {
			return errors.New("no node became ready")
		}
	}
}

// startPods starts pods one after the other, and then many at once.
func (a *api) startPods(ctx context.Context, b *bench) error {
	const single, crowd = 20, 100
	// The size of the crowd is what a kubelet takes (110 pods) with some left.
	running, stop, err := a.watchRunning(ctx)
	if err != nil {
		return err
	}
	defer stop()
	c := a.client()
	defer c.CloseIdleConnections()
	var latencies []time.Duration
	for i := range single {
		name := fmt.Sprintf("single-%d", i)
		began := time.Now()
		if err := a.create(ctx, c, collection("pods"), pausePod(name)); err != nil {
			return err
		}
		if err := running.await(ctx, name); err != nil {
			return err
		}
		latencies = append(latencies, time.Since(began))
		if err := a.do(ctx, c, request{method: http.MethodDelete, path: collection("pods") + "/" + name}, nil); err != nil {
			return err
		}
	}
	b.report(figure{"pod made to Running, one after the other, p50", milliseconds(percentile(latencies, 50)), "ms", 0, true})
	b.report(figure{"the same, p99", milliseconds(percentile(latencies, 99)), "ms", 0, true})
	began := time.Now()
	if _, err := a.each(ctx, 8, crowd, func(ctx context.Context, c *http.Client, i int) error {
		return a.create(ctx, c, collection("pods"), pausePod(fmt.Sprintf("crowd-%d", i)))
	}); err != nil {
		return err
	}
	for i := range crowd {
		if err := running.await(ctx, fmt.Sprintf("crowd-%d", i)); err != nil {
			return err
		}
	}
	b.report(figure{"100 pods at once on one node, all Running", time.Since(began).Seconds(), "s", 0, true})
	return nil
}

// pausePod returns a pod of the image that every node has for its sandboxes.
func pausePod(name string) *corev1.Pod {
	grace := int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []corev1.Container{{Name: "pause", Image: containerd.PauseImage, ImagePullPolicy: corev1.PullNever}},
		},
	}
}

// runningPods tells of pods that have come to run.
type runningPods struct {
	names <-chan string
	seen  map[string]bool
}

// await returns once the pod has been seen running.
func (r *runningPods) await(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for !r.seen[name] {
		select {
		case n, ok := <-r.names:
			if !ok {
				return errors.New("the watch of pods ended")
			}
			r.seen[n] = true
		case <-ctx.Done():
			return fmt.Errorf("pod %s does not run: %w", name, ctx.Err())
		}
	}
	return nil
}

func (a *api) watchRunning(ctx context.Context) (*runningPods, func(), error) {
	ctx, cancel := context.WithCancel(ctx)
	c := a.client()
	body, err := a.open(ctx, c, request{
		method: http.MethodGet, path: collection("pods") + "?watch=true&resourceVersion=0", accept: mediaProtobuf + ";stream=watch",
	})
	if err != nil {
		cancel()
		return nil, nil, err
	}
	names := make(chan string)
	go func() {
		defer close(names)
		_ = frames(body, func(frame []byte) bool {
			pod, err := podOf(frame)
			if err != nil || pod.Status.Phase != corev1.PodRunning {
				return err == nil
			}
			select {
			case names <- pod.Name:
				return true
			case <-ctx.Done():
				return false
			}
		})
	}()
	return &runningPods{names: names, seen: map[string]bool{}}, func() { cancel(); body.Close(); c.CloseIdleConnections() }, nil
}

// podOf returns the pod that an event tells of.
func podOf(frame []byte) (*corev1.Pod, error) {
	var e metav1.WatchEvent
	if err := e.Unmarshal(frame); err != nil {
		return nil, err
	}
	pod := &corev1.Pod{}
	return pod, runtime.DecodeInto(scheme.Codecs.UniversalDeserializer(), e.Object.Raw, pod)
}
