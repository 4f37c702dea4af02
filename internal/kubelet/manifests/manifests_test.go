package manifests

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"skiff/internal/apis"
	"skiff/internal/apis/core"
)

const manifest = `{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: c, image: "web:1"}]}}`

func pods(t *testing.T) *apis.Resource {
	t.Helper()
	for _, r := range core.Resources() {
		if r.Names.Resource == "pods" {
			return r
		}
	}
	t.Fatal("pods are not declared")
	return nil
}

func TestDecode(t *testing.T) {
	s := Source{NodeName: "one", Pods: pods(t)}
	pod, err := s.decode(t.Context(), "/m/web.yaml", []byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	if pod.Name != "web-one" || pod.Namespace != "default" || pod.Spec.NodeName != "one" || pod.Spec.RestartPolicy != v1.RestartPolicyAlways ||
		!IsStatic(pod) || len(pod.UID) != 32 || pod.Annotations[HashAnnotation] != string(pod.UID) {
		t.Errorf("%+v", pod)
	}
	node := &v1.Node{}
	node.Name, node.UID = "one", "node"
	mirror := Mirror(pod, node)
	if !IsMirror(mirror) || IsStatic(mirror) || mirror.UID != "" || mirror.OwnerReferences[0].UID != "node" || IsMirror(pod) {
		t.Errorf("%+v", mirror)
	}
	other, err := s.decode(t.Context(), "/m/other.yaml", []byte(manifest))
	if err != nil || other.UID == pod.UID {
		t.Errorf("the same pod from another file: %v", err)
	}
	for text, problem := range map[string]string{
		"{": "must hold one pod",
		`{apiVersion: v1, kind: Pod, metadata: {name: web}, spce: {}}`:                                "spce",
		`{apiVersion: v1, kind: Service, metadata: {name: web}}`:                                      "v1 Service",
		`{apiVersion: v1, kind: Pod, spec: {containers: [{name: c, image: "web:1"}]}}`:                "metadata.name",
		`{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: c}]}}`:         "spec.containers[0].image",
		`{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [], hostPID: "what"}}`: "hostPID",
	} {
		if _, err := s.decode(t.Context(), "/m/x", []byte(text)); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		// As tools do it: a hidden file that is renamed.
		hidden := filepath.Join(dir, "."+name)
		if err := os.WriteFile(hidden, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(hidden, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write("web.yaml", manifest)
	news := make(chan string, 10)
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			select {
			case got := <-news:
				if got != w {
					t.Fatalf("got %q, want %q", got, w)
				}
			case <-time.After(time.Minute):
				t.Fatalf("%q did not come", w)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	s := Source{
		Dir: dir, NodeName: "one", Pods: pods(t), Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Added:   func(p *v1.Pod) { news <- "added " + p.Name + " " + p.Spec.Containers[0].Image },
		Removed: func(p *v1.Pod) { news <- "removed " + p.Name + " " + p.Spec.Containers[0].Image },
	}
	go func() { ended <- s.Run(ctx, func() { news <- "ready" }) }()
	expect("added web-one web:1", "ready")
	write("web.yaml", "nonsense")
	write("web.yaml", strings.ReplaceAll(manifest, "web:1", "web:2"))
	expect("removed web-one web:1", "added web-one web:2")
	if err := os.Remove(filepath.Join(dir, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	expect("removed web-one web:2")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := (&Source{Dir: filepath.Join(dir, "none")}).Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "--static-pod-dir") {
		t.Errorf("a directory that is not there: %v", err)
	}
}
