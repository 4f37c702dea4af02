// Package manifests reads the pods that a node runs on its own account from a
// directory (see "Create static Pods" in upstream's documentation). A pod is
// the content of its file: another content is another pod.
package manifests

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"skiff/internal/apis"
)

// The annotations by which the node and others know a static pod.
const (
	SourceAnnotation = "kubernetes.io/config.source"
	HashAnnotation   = "kubernetes.io/config.hash"
	MirrorAnnotation = v1.MirrorPodAnnotationKey
)

// Source follows a directory.
type Source struct {
	Dir, NodeName string
	// Pods is the declaration of pods, whose defaults and rules hold here, too.
	Pods *apis.Resource
	Log  *slog.Logger
	// Added and Removed are told of the pods, one call at a time.
	Added, Removed func(*v1.Pod)

	present map[string]*v1.Pod // by path
}

// IsStatic reports whether pod comes from a node's directory.
func IsStatic(pod *v1.Pod) bool {
	return pod.Annotations[SourceAnnotation] == "file" && !IsMirror(pod)
}

// IsMirror reports whether pod stands in the API for a static pod.
func IsMirror(pod *v1.Pod) bool {
	_, ok := pod.Annotations[MirrorAnnotation]
	return ok
}

// Run tells of all pods that are there, calls ready, and then tells of changes
// until ctx ends.
func (s *Source) Run(ctx context.Context, ready func()) error {
	s.present = map[string]*v1.Pod{}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching %s: %w", s.Dir, err)
	}
	defer watcher.Close()
	if err := watcher.Add(s.Dir); err != nil {
		return fmt.Errorf("watching the directory of static pods %s: %w; make it, or leave --static-pod-dir out", s.Dir, err)
	}
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return fmt.Errorf("reading the directory of static pods: %w", err)
	}
	for _, e := range entries {
		s.look(ctx, filepath.Join(s.Dir, e.Name()))
	}
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-watcher.Events:
			s.look(ctx, e.Name)
		case err := <-watcher.Errors:
			s.Log.Warn("watching static pods", "err", err)
		}
	}
}

// look reads one file anew. A file that is wrong leaves the pod that ran.
func (s *Source) look(ctx context.Context, path string) {
	if strings.HasPrefix(filepath.Base(path), ".") {
		return
	}
	old := s.present[path]
	pod, err := s.read(ctx, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if old != nil {
			delete(s.present, path)
			s.Removed(old)
		}
	case err != nil:
		s.Log.Error("a static pod's manifest is not used", "file", path, "err", err)
	case pod == nil || old != nil && old.UID == pod.UID:
	default:
		if old != nil {
			s.Removed(old)
		}
		s.present[path] = pod
		s.Added(pod)
	}
}

// read returns the pod in a file, or nil for what is no regular file.
func (s *Source) read(ctx context.Context, path string) (*v1.Pod, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return s.decode(ctx, path, data)
}

func (s *Source) decode(ctx context.Context, path string, data []byte) (*v1.Pod, error) {
	pod := &v1.Pod{}
	if err := yaml.UnmarshalStrict(data, pod); err != nil {
		return nil, fmt.Errorf("it must hold one pod, as YAML or JSON: %w", err)
	}
	if pod.APIVersion != "v1" || pod.Kind != "Pod" {
		return nil, fmt.Errorf("it holds %s %s, it must hold a v1 Pod", pod.APIVersion, pod.Kind)
	}
	if pod.Name == "" {
		return nil, errors.New("metadata.name: the pod needs a name")
	}
	if pod.Namespace == "" {
		pod.Namespace = v1.NamespaceDefault
	}
	sum := md5.New()
	fmt.Fprintf(sum, "host:%s\nfile:%s\n", s.NodeName, path)
	sum.Write(data)
	hash := hex.EncodeToString(sum.Sum(nil))
	pod.UID = types.UID(hash)
	pod.Name += "-" + strings.ToLower(s.NodeName)
	pod.Spec.NodeName = s.NodeName
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[SourceAnnotation], pod.Annotations[HashAnnotation] = "file", hash
	// Nothing but the file ends the pod.
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute})
	pod.Status = v1.PodStatus{Phase: v1.PodPending}
	s.Pods.Default(pod)
	if problems := s.Pods.Validate(ctx, pod); len(problems) > 0 {
		return nil, problems.ToAggregate()
	}
	return pod, nil
}

// Mirror returns what stands for a static pod in the API.
func Mirror(pod *v1.Pod, node *v1.Node) *v1.Pod {
	out := pod.DeepCopy()
	out.UID, out.ResourceVersion, out.Status = "", "", v1.PodStatus{}
	out.Annotations[MirrorAnnotation] = pod.Annotations[HashAnnotation]
	controller := true
	out.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: &controller}}
	return out
}
