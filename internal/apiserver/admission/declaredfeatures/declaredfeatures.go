// Package declaredfeatures refuses changes of running pods that their node does
// not say it can carry out (NodeDeclaredFeatureValidator, KEP-5328).
package declaredfeatures

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-helpers/nodedeclaredfeatures"
	"k8s.io/component-helpers/nodedeclaredfeatures/features"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/admission"
)

// Plugin implements admission.Validator. Make it with New.
type Plugin struct {
	cache client.Reader
	known *nodedeclaredfeatures.Framework
}

// New returns the plug-in.
func New(cache client.Reader) *Plugin {
	return &Plugin{cache, nodedeclaredfeatures.New(append([]nodedeclaredfeatures.Feature{}, features.AllFeatures...))}
}

// Validate implements admission.Validator.
func (p *Plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	if a.Operation != admission.Update || !a.Is("", "pods", "") && !a.Is("", "pods", "resize") {
		return nil
	}
	pod, old := a.Object.(*corev1.Pod), a.Old.(*corev1.Pod)
	if pod.Spec.NodeName == "" {
		return nil
	}
	// What the node must be able to do does not depend on the node, except that
	// a newer one may take it for granted.
	if most, err := p.needed(old, pod, oldest); err != nil || most.IsEmpty() {
		return err
	}
	node := &corev1.Node{}
	err := p.cache.Get(ctx, client.ObjectKey{Name: pod.Spec.NodeName}, node, client.UnsafeDisableDeepCopy)
	switch {
	case apierrors.IsNotFound(err):
		return a.Forbidden("node %q not found", pod.Spec.NodeName)
	case err != nil:
		return a.Forbidden("failed to get node %q: %w", pod.Spec.NodeName, err)
	}
	kubelet, err := version.ParseSemantic(node.Status.NodeInfo.KubeletVersion)
	if err != nil {
		return a.Forbidden("failed to infer pod capability requirements: %w", err)
	}
	features, err := p.needed(old, pod, kubelet)
	if err != nil {
		return a.Forbidden("failed to infer pod capability requirements: %w", err)
	}
	result, err := p.known.MatchNode(features, node)
	switch {
	case err != nil:
		return a.Forbidden("failed to match pod requirements against node %q: %w", node.Name, err)
	case !result.IsMatch:
		return a.Forbidden("pod update requires features %s which are not available on node %q", strings.Join(result.UnsatisfiedRequirements, ", "), node.Name)
	}
	return nil
}

// oldest is older than any feature's last version.
var oldest = version.MustParseSemantic("1.0.0")

func (p *Plugin) needed(old, pod *corev1.Pod, kubelet *version.Version) (nodedeclaredfeatures.FeatureSet, error) {
	was := &nodedeclaredfeatures.PodInfo{Spec: &old.Spec, Status: &old.Status}
	is := &nodedeclaredfeatures.PodInfo{Spec: &pod.Spec, Status: &pod.Status}
	return p.known.InferForPodUpdate(was, is, kubelet)
}
