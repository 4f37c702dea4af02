package scheduler

import (
	"context"
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
)

// statusPatch is a strategic merge patch. The UID keeps it away from another
// pod that has the name now.
type statusPatch struct {
	Metadata struct {
		UID types.UID `json:"uid"`
	} `json:"metadata"`
	Status struct {
		Conditions        []corev1.PodCondition `json:"conditions,omitempty"`
		NominatedNodeName *string               `json:"nominatedNodeName,omitempty"`
	} `json:"status"`
}

// writeStatus writes a condition, unless it is nil, and the nominated node, as
// far as they are new. A pod that is gone is no error.
func (s *Scheduler) writeStatus(ctx context.Context, pod *corev1.Pod, c *corev1.PodCondition, nominated string) error {
	var p statusPatch
	p.Metadata.UID = pod.UID
	if nominated != pod.Status.NominatedNodeName {
		p.Status.NominatedNodeName = &nominated
	}
	if c != nil {
		if next, changes := s.nextCondition(&pod.Status, *c); changes {
			next.ObservedGeneration = pod.Generation
			p.Status.Conditions = []corev1.PodCondition{next}
		}
	}
	if p.Status.Conditions == nil && p.Status.NominatedNodeName == nil {
		return nil
	}
	// An update costs the server less than a patch, but needs the pod as it is.
	err := s.client.Client.Status().Update(ctx, p.applied(pod))
	if apierrors.IsConflict(err) {
		err = s.patchStatus(ctx, pod, &p)
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (s *Scheduler) patchStatus(ctx context.Context, pod *corev1.Pod, p *statusPatch) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	answer := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
	return s.client.Client.Status().Patch(ctx, answer, crclient.RawPatch(types.StrategicMergePatchType, data))
}

// applied returns the pod with what the patch says.
func (p *statusPatch) applied(pod *corev1.Pod) *corev1.Pod {
	next := *pod
	if p.Status.NominatedNodeName != nil {
		next.Status.NominatedNodeName = *p.Status.NominatedNodeName
	}
	next.Status.Conditions = slices.Clone(pod.Status.Conditions)
	for _, c := range p.Status.Conditions {
		i := slices.IndexFunc(next.Status.Conditions, func(o corev1.PodCondition) bool { return o.Type == c.Type })
		if i < 0 {
			next.Status.Conditions = append(next.Status.Conditions, c)
		} else {
			next.Status.Conditions[i] = c
		}
	}
	return &next
}

// nextCondition returns c as it follows on the pod's present one, and whether
// it says anything new.
func (s *Scheduler) nextCondition(status *corev1.PodStatus, c corev1.PodCondition) (corev1.PodCondition, bool) {
	c.LastTransitionTime = metav1.NewTime(s.clock.Now())
	for i := range status.Conditions {
		old := &status.Conditions[i]
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		c.LastProbeTime = old.LastProbeTime
		return c, old.Status != c.Status || old.Reason != c.Reason || old.Message != c.Message
	}
	return c, true
}
