package statefulset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
)

func claimName(set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, ordinal int) string {
	return fmt.Sprintf("%s-%s-%d", template.Name, set.Name, ordinal)
}

// claim returns the cached claim of the pod for the template, or nil.
func (s *step) claim(ctx context.Context, p *corev1.Pod, template *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error) {
	_, ordinal := parent(p)
	var c corev1.PersistentVolumeClaim
	err := s.Cache.Get(ctx, types.NamespacedName{Namespace: s.set.Namespace, Name: claimName(s.set, template, ordinal)}, &c, crclient.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return &c, err
}

// claimStale reports whether a claim waits to be collected together with an
// earlier pod of the same name: the new pod must not get it.
func (s *step) claimStale(ctx context.Context, p *corev1.Pod) (bool, error) {
	for i := range s.set.Spec.VolumeClaimTemplates {
		c, err := s.claim(ctx, p, &s.set.Spec.VolumeClaimTemplates[i])
		if err != nil {
			return false, err
		}
		if c != nil && slices.ContainsFunc(c.OwnerReferences, func(r metav1.OwnerReference) bool { return names(r, p.Name, podKind.Kind) && r.UID != p.UID }) {
			return true, nil
		}
	}
	return false, nil
}

// ensureClaims makes the claims of a pod that are missing.
func (s *step) ensureClaims(ctx context.Context, p *corev1.Pod) error {
	var problems []error
	for i := range s.set.Spec.VolumeClaimTemplates {
		template := &s.set.Spec.VolumeClaimTemplates[i]
		c, err := s.claim(ctx, p, template)
		switch {
		case err != nil:
			problems = append(problems, err)
		case c == nil:
			problems = append(problems, s.createClaim(ctx, p, template))
		case c.DeletionTimestamp != nil:
			problems = append(problems, fmt.Errorf("pvc %s is being deleted", c.Name))
		}
	}
	return errors.Join(problems...)
}

func (s *step) createClaim(ctx context.Context, p *corev1.Pod, template *corev1.PersistentVolumeClaim) error {
	_, ordinal := parent(p)
	c := &corev1.PersistentVolumeClaim{ObjectMeta: *template.ObjectMeta.DeepCopy(), Spec: *template.Spec.DeepCopy()}
	c.Namespace, c.Name = s.set.Namespace, claimName(s.set, template, ordinal)
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	maps.Copy(c.Labels, s.set.Spec.Selector.MatchLabels)
	c.OwnerReferences = s.owners(c, p)
	err := s.Client.Create(ctx, c)
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		s.events.Eventf(s.set, corev1.EventTypeWarning, "FailedCreate", "create Claim %s for Pod %s in StatefulSet %s failed error: %s", c.Name, p.Name, s.set.Name, err)
		return fmt.Errorf("failed to create PVC %s: %w", c.Name, err)
	}
	s.events.Eventf(s.set, corev1.EventTypeNormal, "SuccessfulCreate", "create Claim %s Pod %s in StatefulSet %s success", c.Name, p.Name, s.set.Name)
	return nil
}

// retain makes the owners of a pod's claims what the retention policy says:
// the garbage collector then carries the policy out.
func (s *step) retain(ctx context.Context, p *corev1.Pod) error {
	for i := range s.set.Spec.VolumeClaimTemplates {
		c, err := s.claim(ctx, p, &s.set.Spec.VolumeClaimTemplates[i])
		if err != nil {
			return err
		}
		if c == nil {
			continue
		}
		want := s.owners(c, p)
		if apiequality.Semantic.DeepEqual(want, c.OwnerReferences) {
			continue
		}
		next := c.DeepCopy()
		next.OwnerReferences = want
		if err := s.Client.Update(ctx, next); err != nil {
			s.events.Eventf(s.set, corev1.EventTypeWarning, "FailedUpdate", "update Claim %s for Pod %s in StatefulSet %s failed error: %s", c.Name, p.Name, s.set.Name, err)
			return fmt.Errorf("could not update claim %s for retention policy ownerRefs: %w", c.Name, err)
		}
	}
	return nil
}

// owners are the owner references that a pod's claim should have. The set owns
// it while it should go with the set, the pod once it should go with the pod;
// a claim that somebody else controls is left to them.
func (s *step) owners(c *corev1.PersistentVolumeClaim, p *corev1.Pod) []metav1.OwnerReference {
	var refs []metav1.OwnerReference
	foreign := false
	for _, r := range c.OwnerReferences {
		if names(r, s.set.Name, kind.Kind) && r.UID == s.set.UID || names(r, p.Name, podKind.Kind) && r.UID == p.UID {
			continue
		}
		foreign = foreign || r.Controller != nil && *r.Controller
		refs = append(refs, r)
	}
	policy := s.set.Spec.PersistentVolumeClaimRetentionPolicy
	if foreign || policy == nil {
		return refs
	}
	_, ordinal := parent(p)
	const gone = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	switch {
	case policy.WhenScaled == gone && !inRange(s.set, ordinal):
		return append(refs, *metav1.NewControllerRef(p, podKind))
	case policy.WhenDeleted == gone:
		return append(refs, *metav1.NewControllerRef(s.set, kind))
	}
	return refs
}

func names(r metav1.OwnerReference, name, kind string) bool { return r.Name == name && r.Kind == kind }
