//go:build e2e

package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/retry"

	"skiff/internal/images"
	"skiff/internal/images/imagetest"
)

// serverImage holds busybox and testserver.
const serverImage = "skiff.local/testserver:1"

// atOnce is how many conformance tests run at a time: they mostly wait.
const atOnce = 12

// conformant is a test of our own for a demand of upstream's conformance suite,
// by its name there.
type conformant struct {
	name string
	test func(*space)
}

// space is a namespace of a test's own in the cluster that all of them share.
type space struct {
	*testCluster
	ns      string
	dynamic dynamic.Interface
}

// TestConformance demands what upstream's conformance suite demands of
// applications, scheduling, the command line, and the API of the other groups.
func TestConformance(t *testing.T) {
	c := start(t, "e2econform", nodes)
	c.importServer()
	var all errgroup.Group
	all.SetLimit(atOnce)
	number := 0
	for _, group := range [][]conformant{
		cronJobs, statefulSets, deployments, daemonSets, jobs, replicaSets, replicationControllers, disruptions,
		preemption, predicates, commandLine, serviceTypes, serviceEndpoints, lifecycles, nodeAPIs,
	} {
		for _, e := range group {
			number++
			ns := fmt.Sprintf("conform-%d", number)
			all.Go(func() error {
				t.Run(e.name, func(t *testing.T) { e.test(c.in(t).space(ns)) })
				return nil
			})
		}
	}
	all.Wait()
}

// importServer puts serverImage onto all nodes.
func (c *testCluster) importServer() {
	c.Helper()
	program := filepath.Join(c.TempDir(), "testserver")
	build := exec.Command("go", "build", "-trimpath", "-o", program, "./testserver")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		c.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(program)
	c.ok(err)
	archive := program + ".tar"
	c.ok(os.WriteFile(archive, imagetest.BusyboxWith(c, serverImage, images.File{Path: "bin/testserver", Mode: 0o755, Data: data}), 0o600))
	c.skiff("image", "import", archive)
}

// ok ends the test unless err is nil.
func (c *testCluster) ok(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// space makes a namespace, which is removed with the cluster only: deletions are
// no part of what is measured.
func (c *testCluster) space(ns string) *space {
	c.Helper()
	d, err := dynamic.NewForConfig(c.config)
	c.ok(err)
	s := &space{c, ns, d}
	_, err = c.client.CoreV1().Namespaces().Create(c.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
	c.ok(err)
	s.eventually("the namespace's ServiceAccount", func(ctx context.Context) error {
		_, err := c.client.CoreV1().ServiceAccounts(ns).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	c.Cleanup(func() { s.end() })
	return s
}

// end takes the namespace's pods away, so that the nodes have room, and tells
// what happened in it if the test failed.
func (s *space) end() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if s.Failed() {
		pods, err := s.client.CoreV1().Pods(s.ns).List(ctx, metav1.ListOptions{})
		s.Logf("%d pods, %v", len(pods.Items), err)
		for _, p := range pods.Items {
			s.Logf("pod %s %v of %s on %s: %s", p.Name, p.Labels, owner(&p), p.Spec.NodeName, text(p.Status))
		}
		events, err := s.client.CoreV1().Events(s.ns).List(ctx, metav1.ListOptions{})
		for _, e := range events.Items {
			s.Logf("event of %s/%s: %s %s %s", e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Type, e.Reason, e.Message)
		}
		if err != nil {
			s.Log(err)
		}
	}
	if err := s.client.CoreV1().Namespaces().Delete(ctx, s.ns, metav1.DeleteOptions{}); err != nil {
		s.Log(err)
	}
}

// text is an object as a person reads it.
func text(v any) string {
	if err, ok := v.(error); ok {
		return err.Error()
	}
	data, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// kubectl runs a kubectl command in the namespace, which must succeed.
func (s *space) kubectl(args ...string) string {
	s.Helper()
	return s.skiff(append([]string{"kubectl", "--namespace", s.ns}, args...)...)
}

// with runs a kubectl command in the namespace with something to read.
func (s *space) with(input string, args ...string) (string, error) {
	return s.tryWith(nil, input, append([]string{"kubectl", "--namespace", s.ns}, args...)...)
}

// create creates the objects of a manifest.
func (s *space) create(manifest string) {
	s.Helper()
	_, err := s.with(manifest, "create", "-f", "-")
	s.ok(err)
}

// exec runs a shell command in a pod of the namespace.
func (s *space) exec(pod, script string) (string, error) {
	out, err := s.with("", "exec", pod, "--", "sh", "-c", script)
	return strings.TrimSpace(out), err
}

// of is a resource's client in the namespace.
func (s *space) of(r schema.GroupVersionResource) dynamic.ResourceInterface {
	return s.dynamic.Resource(r).Namespace(s.ns)
}

// patch is a merge patch of an object, or of its subresource.
func (s *space) patch(r schema.GroupVersionResource, name, patch string, subresources ...string) {
	s.Helper()
	_, err := s.of(r).Patch(s.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, subresources...)
	s.ok(err)
}

// template is a pod's that runs a shell command; it goes quickly when told to.
func template(label, script string) corev1.PodTemplateSpec {
	grace := int64(1)
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": label}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "main", Image: imagetest.BusyboxName, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sh", "-c", script},
			}},
		},
	}
}

// idle is what a container does whose only task is to be there.
const idle = "exec sleep 3600"

// startPod starts a pod by a template, and waits until it is ready.
func (s *space) startPod(name string, template corev1.PodTemplateSpec) *corev1.Pod {
	s.Helper()
	s.createPod(name, template)
	return s.ready(name)
}

func (s *space) createPod(name string, template corev1.PodTemplateSpec) *corev1.Pod {
	s.Helper()
	p := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	p.Name = name
	p, err := s.client.CoreV1().Pods(s.ns).Create(s.Context(), p, metav1.CreateOptions{})
	s.ok(err)
	return p
}

// ready waits until a pod is ready.
func (s *space) ready(name string) *corev1.Pod {
	s.Helper()
	return s.podThat(name, "is ready", isReady)
}

// podThat waits until a pod is as wanted.
func (s *space) podThat(name, what string, wanted func(*corev1.Pod) bool) *corev1.Pod {
	s.Helper()
	var p *corev1.Pod
	s.eventually(name+" "+what, func(ctx context.Context) (err error) {
		if p, err = s.client.CoreV1().Pods(s.ns).Get(ctx, name, metav1.GetOptions{}); err == nil && !wanted(p) {
			err = fmt.Errorf("its status is %s", text(p.Status))
		}
		return err
	})
	return p
}

// gone waits until a pod is not there any more.
func (s *space) gone(name string) {
	s.Helper()
	s.eventually(name+" is gone", func(ctx context.Context) error {
		p, err := s.client.CoreV1().Pods(s.ns).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%v: its status is %s", err, text(p.Status))
	})
}

func isReady(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// list returns the pods with a label app.
func (s *space) list(ctx context.Context, app string) ([]corev1.Pod, error) {
	l, err := s.client.CoreV1().Pods(s.ns).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	return l.Items, err
}

// pods waits until there are exactly n pods with the label, all as wanted.
func (s *space) pods(app string, n int, wanted func(*corev1.Pod) bool) []corev1.Pod {
	s.Helper()
	var pods []corev1.Pod
	s.eventually(fmt.Sprintf("%d pods of %s are as they should be", n, app), func(ctx context.Context) (err error) {
		if pods, err = s.list(ctx, app); err != nil {
			return err
		}
		if len(pods) != n {
			return fmt.Errorf("there are %d", len(pods))
		}
		for i := range pods {
			if !wanted(&pods[i]) {
				return fmt.Errorf("%s is not: %s", pods[i].Name, text(pods[i].Status))
			}
		}
		return nil
	})
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods
}

// updatePod changes a pod, again if somebody else did so meanwhile.
func (s *space) updatePod(name string, change func(*corev1.Pod)) {
	s.Helper()
	s.ok(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		p, err := s.client.CoreV1().Pods(s.ns).Get(s.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(p)
		_, err = s.client.CoreV1().Pods(s.ns).Update(s.Context(), p, metav1.UpdateOptions{})
		return err
	}))
}

// deletePod deletes a pod.
func (s *space) deletePod(name string) {
	s.Helper()
	s.ok(s.client.CoreV1().Pods(s.ns).Delete(s.Context(), name, metav1.DeleteOptions{}))
}

// watcher follows objects from a moment on.
type watcher struct {
	*space
	events watch.Interface
}

// watch follows a resource's objects with the labels, from now on.
func (s *space) watch(r dynamic.ResourceInterface, set map[string]string) *watcher {
	s.Helper()
	selector := labels.SelectorFromSet(set).String()
	list, err := r.List(s.Context(), metav1.ListOptions{LabelSelector: selector})
	s.ok(err)
	events, err := r.Watch(s.Context(), metav1.ListOptions{LabelSelector: selector, ResourceVersion: list.GetResourceVersion()})
	s.ok(err)
	s.Cleanup(events.Stop)
	return &watcher{s, events}
}

// until returns with the first event that is as wanted.
func (w *watcher) until(what string, wanted func(watch.Event) bool) {
	w.Helper()
	timeout := time.After(patience)
	seen := map[watch.EventType]int{}
	for {
		select {
		case e, open := <-w.events.ResultChan():
			if !open {
				w.Fatalf("the watch ended before %s; there were %v", what, seen)
			}
			if wanted(e) {
				return
			}
			seen[e.Type]++
		case <-timeout:
			w.Fatalf("no event says that %s; there were %v", what, maps.Collect(maps.All(seen)))
		}
	}
}

// condition fails unless check holds, with what the object looks like.
func (s *space) condition(what string, holds bool, object any) {
	s.Helper()
	if !holds {
		s.Errorf("%s: not so with %s", what, text(object))
	}
}
