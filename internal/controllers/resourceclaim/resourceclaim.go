// Package resourceclaim makes the resource claims that pods ask for by
// template, keeps account of who has reserved a claim, and gives devices free
// that nobody uses any more.
package resourceclaim

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

// podClaimName annotates a claim made by template with the name that the pod
// has for it.
const podClaimName = "resource.kubernetes.io/pod-claim-name"

type reconciler struct {
	controller.Deps
	recorder record.EventRecorder
}

// NewPods makes the controller that gives pods their claims. Its keys are pods.
func NewPods(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{d, d.Recorder("resource_claim")}
	return controller.New(d, "resourceclaimpods", 2, r.reconcilePod,
		controller.Watch(d, &corev1.Pod{}, func(q controller.Queue, old, pod *corev1.Pod) {
			if pod != nil && len(pod.Spec.ResourceClaims) > 0 && !ended(pod) &&
				(old == nil || old.Spec.NodeName != pod.Spec.NodeName || len(old.Status.ResourceClaimStatuses) != len(pod.Status.ResourceClaimStatuses)) {
				controller.Add(q, pod.Namespace, pod.Name)
			}
		}),
		controller.Watch(d, &resourcev1.ResourceClaimTemplate{}, func(q controller.Queue, old, t *resourcev1.ResourceClaimTemplate) {
			if old == nil {
				r.wake(q, t.Namespace, func(c *corev1.PodResourceClaim) bool { return ptr.Deref(c.ResourceClaimTemplateName, "") == t.Name })
			}
		}),
		controller.Watch(d, &resourcev1.ResourceClaim{}, func(q controller.Queue, old, c *resourcev1.ResourceClaim) {
			if c == nil {
				// A pod's claim that somebody deleted is made again.
				if ref := metav1.GetControllerOfNoCopy(old); ref != nil && ref.Kind == "Pod" {
					controller.Add(q, old.Namespace, ref.Name)
				}
				return
			}
			if old != nil && old.Status.Allocation == nil && c.Status.Allocation != nil {
				// Pods that were bound without the scheduler may use it now.
				r.wake(q, c.Namespace, func(p *corev1.PodResourceClaim) bool { return ptr.Deref(p.ResourceClaimName, "") == c.Name })
			}
		}))
}

func (r *reconciler) wake(q controller.Queue, namespace string, uses func(*corev1.PodResourceClaim) bool) {
	var pods corev1.PodList
	if err := r.Cache.List(context.Background(), &pods, crclient.InNamespace(namespace), crclient.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("listing the pods of a claim", "namespace", namespace, "error", err)
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		if slices.ContainsFunc(p.Spec.ResourceClaims, func(c corev1.PodResourceClaim) bool { return uses(&c) }) {
			controller.Add(q, p.Namespace, p.Name)
		}
	}
}

// ended reports whether the pod will not use devices any more.
func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed ||
		pod.DeletionTimestamp != nil && pod.Spec.NodeName == ""
}

func (r *reconciler) reconcilePod(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var pod corev1.Pod
	if err := r.Cache.Get(ctx, key, &pod, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	if ended(&pod) || pod.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	next := pod.DeepCopy()
	for i := range pod.Spec.ResourceClaims {
		c := &pod.Spec.ResourceClaims[i]
		name, err := r.ensure(ctx, &pod, c)
		if err != nil {
			r.recorder.Eventf(&pod, corev1.EventTypeWarning, "FailedResourceClaimCreation", "PodResourceClaim %s: %v", c.Name, err)
			if apierrors.IsNotFound(err) {
				// The template's event brings the pod back.
				return reconcile.Result{}, nil
			}
			return reconcile.Result{}, err
		}
		if name == "" {
			continue
		}
		known := slices.IndexFunc(next.Status.ResourceClaimStatuses, func(s corev1.PodResourceClaimStatus) bool { return s.Name == c.Name })
		status := corev1.PodResourceClaimStatus{Name: c.Name, ResourceClaimName: &name}
		if known < 0 {
			next.Status.ResourceClaimStatuses = append(next.Status.ResourceClaimStatuses, status)
		} else {
			next.Status.ResourceClaimStatuses[known] = status
		}
	}
	patch := crclient.StrategicMergeFrom(&pod)
	if data, err := patch.Data(next); err != nil {
		return reconcile.Result{}, err
	} else if string(data) != "{}" {
		if err := r.Client.Status().Patch(ctx, next, patch); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
	}
	if pod.Spec.NodeName == "" {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, r.reserve(ctx, next)
}

// ensure makes the claim that a template asks for, and returns its name; it is
// empty for claims that others make.
func (r *reconciler) ensure(ctx context.Context, pod *corev1.Pod, c *corev1.PodResourceClaim) (string, error) {
	if c.ResourceClaimTemplateName == nil {
		return "", nil
	}
	for _, s := range pod.Status.ResourceClaimStatuses {
		if s.Name != c.Name || s.ResourceClaimName == nil {
			continue
		}
		var claim resourcev1.ResourceClaim
		err := r.Cache.Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: *s.ResourceClaimName}, &claim, crclient.UnsafeDisableDeepCopy)
		if err == nil && metav1.IsControlledBy(&claim, pod) {
			return claim.Name, nil
		} else if crclient.IgnoreNotFound(err) != nil {
			return "", err
		}
	}
	// One may have been made before the pod's status could be written.
	var claims resourcev1.ResourceClaimList
	if err := r.Client.List(ctx, &claims, crclient.InNamespace(pod.Namespace), crclient.UnsafeDisableDeepCopy); err != nil {
		return "", err
	}
	for i := range claims.Items {
		if o := &claims.Items[i]; metav1.IsControlledBy(o, pod) && o.Annotations[podClaimName] == c.Name && o.DeletionTimestamp == nil {
			return o.Name, nil
		}
	}
	var template resourcev1.ResourceClaimTemplate
	err := r.Cache.Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: *c.ResourceClaimTemplateName}, &template)
	if err != nil {
		if apierrors.IsNotFound(err) {
			r.Log.Debug("a pod waits for its claim template", "pod", controller.Key(pod), "template", *c.ResourceClaimTemplateName)
		}
		return "", err
	}
	claim := &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, GenerateName: pod.Name + "-" + c.Name + "-",
			Labels: template.Spec.Labels, Annotations: template.Spec.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: template.Spec.Spec,
	}
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, podClaimName, c.Name)
	if err := r.Client.Create(ctx, claim); err != nil {
		return "", fmt.Errorf("create ResourceClaim: %w", err)
	}
	return claim.Name, nil
}

// maxReservations is how many pods can share a claim.
const maxReservations = resourcev1.ResourceClaimReservedForMaxSize

// reserve reserves allocated claims for a pod that got its node from somebody
// else than the scheduler.
func (r *reconciler) reserve(ctx context.Context, pod *corev1.Pod) error {
	for i := range pod.Spec.ResourceClaims {
		name := nameOf(pod, &pod.Spec.ResourceClaims[i])
		if name == "" {
			continue
		}
		var claim resourcev1.ResourceClaim
		err := r.Cache.Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: name}, &claim)
		if err != nil || claim.Status.Allocation == nil || claim.DeletionTimestamp != nil || len(claim.Status.ReservedFor) >= maxReservations {
			if crclient.IgnoreNotFound(err) != nil {
				return err
			}
			continue
		}
		if slices.ContainsFunc(claim.Status.ReservedFor, func(c resourcev1.ResourceClaimConsumerReference) bool { return c.UID == pod.UID }) {
			continue
		}
		claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
		if err := r.Client.Status().Update(ctx, &claim); err != nil {
			return crclient.IgnoreNotFound(err)
		}
	}
	return nil
}

// nameOf returns the name of a pod's claim, or nothing if it is not known yet
// or not needed.
func nameOf(pod *corev1.Pod, c *corev1.PodResourceClaim) string {
	if c.ResourceClaimName != nil {
		return *c.ResourceClaimName
	}
	for _, s := range pod.Status.ResourceClaimStatuses {
		if s.Name == c.Name {
			return ptr.Deref(s.ResourceClaimName, "")
		}
	}
	return ""
}
