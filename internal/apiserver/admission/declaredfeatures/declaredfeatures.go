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
	needed, err := p.known.InferForPodUpdate(
		&nodedeclaredfeatures.PodInfo{Spec: &old.Spec, Status: &old.Status}, &nodedeclaredfeatures.PodInfo{Spec: &pod.Spec, Status: &pod.Status}, served)
	if err != nil {
		return a.Forbidden("failed to infer pod capability requirements: %w", err)
	}
	if needed.IsEmpty() {
		return nil
	}
	node := &corev1.Node{}
	err = p.cache.Get(ctx, client.ObjectKey{Name: pod.Spec.NodeName}, node, client.UnsafeDisableDeepCopy)
	switch {
	case apierrors.IsNotFound(err):
		return a.Forbidden("node %q not found", pod.Spec.NodeName)
	case err != nil:
		return a.Forbidden("failed to get node %q: %w", pod.Spec.NodeName, err)
	}
	result, err := p.known.MatchNode(needed, node)
	switch {
	case err != nil:
		return a.Forbidden("failed to match pod requirements against node %q: %w", node.Name, err)
	case !result.IsMatch:
		return a.Forbidden("pod update requires features %s which are not available on node %q", strings.Join(result.UnsatisfiedRequirements, ", "), node.Name)
	}
	return nil
}

// served is the version of the API: what older ones could do is no longer asked.
var served = version.MustParseSemantic("1.36.0")
