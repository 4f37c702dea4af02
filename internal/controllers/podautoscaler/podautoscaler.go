// Package podautoscaler sets the number of pods of what HorizontalPodAutoscalers
// name by what the pods use, or by other metrics.
//
// An autoscaler is looked at when its spec changes and then every 15 s; what is
// remembered of it (recent recommendations and changes) is kept in memory only,
// as upstream does: after a restart, the present size is the first
// recommendation.
package podautoscaler

import (
	"context"
	"fmt"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

// Options are the cluster's habits. Zero values mean upstream's defaults.
type Options struct {
	// Interval is the time between two looks at an autoscaler (15 s).
	Interval time.Duration
	// Tolerance is the deviation from the target that is let be (0.1).
	Tolerance float64
	// DownscaleStabilization is how long a recommendation to be larger holds
	// back from becoming smaller, for autoscalers that do not say (5 min).
	DownscaleStabilization time.Duration
	// CPUInitialization is how long after its start a pod's CPU usage is not
	// trusted while it is not ready (5 min); InitialReadiness how long after its
	// start a pod that becomes unready is taken for one that never was ready
	// (30 s).
	CPUInitialization, InitialReadiness time.Duration
	// REST reaches the API over HTTP, for metrics that other servers know; nil
	// means that there are no custom and external ones.
	REST *rest.Config
}

func (o *Options) setDefaults() {
	for d, otherwise := range map[*time.Duration]time.Duration{
		&o.Interval: 15 * time.Second, &o.DownscaleStabilization: 5 * time.Minute,
		&o.CPUInitialization: 5 * time.Minute, &o.InitialReadiness: 30 * time.Second,
	} {
		if *d == 0 {
			*d = otherwise
		}
	}
	if o.Tolerance == 0 {
		o.Tolerance = 0.1
	}
}

const workers = 5

type reconciler struct {
	controller.Deps
	Options
	events  record.EventRecorder
	metrics *source

	mu        sync.Mutex
	histories map[types.NamespacedName]*history
}

// New makes the pod autoscaler.
func New(d controller.Deps, o Options) (controller.Runnable, error) {
	o.setDefaults()
	r := &reconciler{
		Deps: d, Options: o, events: d.Recorder("horizontal-pod-autoscaler"),
		metrics: newSource(d.Client, o.REST), histories: map[types.NamespacedName]*history{},
	}
	return controller.New(d, "podautoscaler", workers, r.reconcile,
		controller.Watch(d, &autoscalingv2.HorizontalPodAutoscaler{}, func(q controller.Queue, old, a *autoscalingv2.HorizontalPodAutoscaler) {
			switch {
			case a == nil:
				r.forget(controller.Key(old))
			case old == nil || !apiequality.Semantic.DeepEqual(old.Spec, a.Spec):
				controller.Add(q, a.Namespace, a.Name)
			}
		}))
}

// history returns what is remembered of an autoscaler; it is only used by the
// one goroutine that reconciles it.
func (r *reconciler) history(a *autoscalingv2.HorizontalPodAutoscaler) *history {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := controller.Key(a)
	h := r.histories[key]
	if h == nil || h.uid != a.UID {
		h = &history{uid: a.UID, clock: r.Clock}
		r.histories[key] = h
	}
	return h
}

func (r *reconciler) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.histories, key)
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var cached autoscalingv2.HorizontalPodAutoscaler
	if err := r.Cache.Get(ctx, key, &cached, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	if cached.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	a := &autoscaling{reconciler: r, object: cached.DeepCopy(), history: r.history(&cached)}
	if err := a.run(ctx); err != nil {
		r.Log.Debug("an autoscaler cannot do its work", "autoscaler", key.String(), "error", err)
	}
	if !apiequality.Semantic.DeepEqual(cached.Status, a.object.Status) {
		err := r.Client.Status().Update(ctx, a.object)
		switch {
		case apierrors.IsNotFound(err), apierrors.IsConflict(err):
			return reconcile.Result{RequeueAfter: r.Interval}, nil
		case err != nil:
			r.events.Event(&cached, corev1.EventTypeWarning, "FailedUpdateStatus", err.Error())
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{RequeueAfter: r.Interval}, nil
}

// autoscaling is one look at one autoscaler.
type autoscaling struct {
	*reconciler
	// object is a private copy, whose status is written back at the end.
	object  *autoscalingv2.HorizontalPodAutoscaler
	history *history
}

func (a *autoscaling) warn(reason string, err error) {
	a.events.Event(a.object, corev1.EventTypeWarning, reason, err.Error())
}

// condition sets a condition of the autoscaler.
func (a *autoscaling) condition(kind autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, reason, format string, args ...any) {
	list := a.object.Status.Conditions
	at := -1
	for i := range list {
		if list[i].Type == kind {
			at = i
		}
	}
	if at < 0 {
		list = append(list, autoscalingv2.HorizontalPodAutoscalerCondition{Type: kind})
		at = len(list) - 1
	}
	if list[at].Status != status {
		list[at].LastTransitionTime = metav1.NewTime(a.Clock.Now())
	}
	list[at].Status, list[at].Reason, list[at].Message = status, reason, fmt.Sprintf(format, args...)
	a.object.Status.Conditions = list
}

func (a *autoscaling) minReplicas() int32 {
	if n := a.object.Spec.MinReplicas; n != nil {
		return *n
	}
	return 1
}

// run brings the target to the size that it should have.
func (a *autoscaling) run(ctx context.Context) error {
	spec := &a.object.Spec
	target, scale, err := a.scale(ctx)
	if err != nil {
		a.warn("FailedGetScale", err)
		a.condition(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale", "the HPA controller was unable to get the target's current scale: %v", err)
		return err
	}
	a.condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	current := scale.Spec.Replicas
	a.history.begin(current)
	a.object.Status.CurrentReplicas = current

	desired, reason, rescale := current, "", true
	switch {
	case current == 0 && a.minReplicas() != 0:
		rescale = false
		a.condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
		a.object.Status.CurrentMetrics = nil
	case current > spec.MaxReplicas:
		desired, reason = spec.MaxReplicas, "Current number of replicas above Spec.MaxReplicas"
		a.object.Status.CurrentMetrics = nil
	case current < a.minReplicas():
		desired, reason = a.minReplicas(), "Current number of replicas below Spec.MinReplicas"
		a.object.Status.CurrentMetrics = nil
	default:
		var metric string
		desired, metric, err = a.recommend(ctx, scale)
		if err != nil {
			a.warn("FailedComputeMetricsReplicas", err)
			return err
		}
		switch {
		case desired > current:
			reason = metric + " above target"
		case desired < current:
			reason = "All metrics below target"
		}
		desired = a.limit(current, desired)
		rescale = desired != current
	}
	if rescale {
		scale.Spec.Replicas = desired
		if err := a.rescale(ctx, target, scale); err != nil {
			a.events.Eventf(a.object, corev1.EventTypeWarning, "FailedRescale", "New size: %d; reason: %s; error: %v", desired, reason, err)
			a.condition(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedUpdateScale", "the HPA controller was unable to update the target scale: %v", err)
			return err
		}
		a.condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededRescale", "the HPA controller was able to update the target scale to %d", desired)
		a.events.Eventf(a.object, corev1.EventTypeNormal, "SuccessfulRescale", "New size: %d; reason: %s", desired, reason)
		a.history.changed(current, desired)
		now := metav1.NewTime(a.Clock.Now())
		a.object.Status.LastScaleTime = &now
	}
	a.object.Status.DesiredReplicas = desired
	return nil
}

// scale reads the scale of the target, whatever kind it is of.
func (a *autoscaling) scale(ctx context.Context) (crclient.Object, *autoscalingv1.Scale, error) {
	ref := a.object.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, nil, err
	}
	mapping, err := a.Client.RESTMapper().RESTMapping(schema.GroupKind{Group: gv.Group, Kind: ref.Kind})
	if err != nil {
		return nil, nil, err
	}
	target := &unstructured.Unstructured{}
	target.SetGroupVersionKind(mapping.GroupVersionKind)
	target.SetNamespace(a.object.Namespace)
	target.SetName(ref.Name)
	answer := &unstructured.Unstructured{}
	answer.SetGroupVersionKind(scaleKind)
	if err := a.Client.SubResource("scale").Get(ctx, target, answer); err != nil {
		return nil, nil, err
	}
	scale := &autoscalingv1.Scale{}
	return target, scale, runtime.DefaultUnstructuredConverter.FromUnstructured(answer.Object, scale)
}

// scaleKind is what is read and written of a target. Remote clients take objects
// without a type only where both are.
var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// rescale writes the scale of the target.
func (a *autoscaling) rescale(ctx context.Context, target crclient.Object, scale *autoscalingv1.Scale) error {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(scale)
	if err != nil {
		return err
	}
	body := &unstructured.Unstructured{Object: content}
	body.SetGroupVersionKind(scaleKind)
	return a.Client.SubResource("scale").Update(ctx, target, crclient.WithSubResourceBody(body))
}
