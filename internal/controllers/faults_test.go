package controllers_test

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	skiffclient "skiff/internal/client"
	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/daemonset"
	"skiff/internal/controllers/deployment"
	"skiff/internal/controllers/garbagecollector"
	"skiff/internal/controllers/replicaset"
	"skiff/internal/controllers/replicationcontroller"
	"skiff/internal/controllers/statefulset"
)

// size is how many pods each workload of these tests has; at least least of
// them must work at any time, and there may be no more than most.
const size = 6

// workload is a kind of object that owns pods.
type workload struct {
	name        string
	least, most int
	make        func() client.Object
	template    func(client.Object) *corev1.PodTemplateSpec
	// settled: the status says that all pods are there and as they should be.
	settled func(client.Object) bool
	list    client.ObjectList
}

var appLabels = map[string]string{"app": "w"}

func podTemplate() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: maps.Clone(appLabels)},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "web:0"}},
			// New nodes are tainted until a kubelet is ready.
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		},
	}
}

func workloads() []workload {
	meta := metav1.ObjectMeta{Namespace: "default", Name: "w"}
	selector := &metav1.LabelSelector{MatchLabels: appLabels}
	one, two := intstr.FromInt32(1), intstr.FromInt32(2)
	return []workload{
		{"Deployment", size - 1, size + 1,
			func() client.Object {
				return &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](size), Selector: selector, Template: podTemplate(), RevisionHistoryLimit: ptr.To[int32](2),
					Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &one, MaxUnavailable: &one}}}}
			},
			func(o client.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.Deployment).Spec.Template },
			func(o client.Object) bool {
				s := o.(*appsv1.Deployment).Status
				return s.ObservedGeneration == o.GetGeneration() && s.Replicas == size && s.UpdatedReplicas == size && s.AvailableReplicas == size
			}, &appsv1.DeploymentList{}},
		{"ReplicaSet", size, size,
			func() client.Object {
				return &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](size), Selector: selector, Template: podTemplate()}}
			},
			func(o client.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.ReplicaSet).Spec.Template },
			func(o client.Object) bool {
				s := o.(*appsv1.ReplicaSet).Status
				return s.ObservedGeneration == o.GetGeneration() && s.Replicas == size && s.AvailableReplicas == size
			}, &appsv1.ReplicaSetList{}},
		{"ReplicationController", size, size,
			func() client.Object {
				return &corev1.ReplicationController{ObjectMeta: meta, Spec: corev1.ReplicationControllerSpec{Replicas: ptr.To[int32](size), Selector: appLabels, Template: ptr.To(podTemplate())}}
			},
			func(o client.Object) *corev1.PodTemplateSpec { return o.(*corev1.ReplicationController).Spec.Template },
			func(o client.Object) bool {
				s := o.(*corev1.ReplicationController).Status
				return s.ObservedGeneration == o.GetGeneration() && s.Replicas == size && s.AvailableReplicas == size
			}, &corev1.ReplicationControllerList{}},
		{"StatefulSet", size - 2, size,
			func() client.Object {
				return &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: ptr.To[int32](size), Selector: selector, Template: podTemplate(), RevisionHistoryLimit: ptr.To[int32](2),
					PodManagementPolicy: appsv1.ParallelPodManagement,
					UpdateStrategy:      appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: &two}}}}
			},
			func(o client.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.StatefulSet).Spec.Template },
			func(o client.Object) bool {
				s := o.(*appsv1.StatefulSet).Status
				return s.ObservedGeneration == o.GetGeneration() && s.Replicas == size && s.UpdatedReplicas == size && s.AvailableReplicas == size && s.CurrentRevision == s.UpdateRevision
			}, &appsv1.StatefulSetList{}},
		{"DaemonSet", size - 1, size,
			func() client.Object {
				return &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: podTemplate(), RevisionHistoryLimit: ptr.To[int32](2)}}
			},
			func(o client.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.DaemonSet).Spec.Template },
			func(o client.Object) bool {
				s := o.(*appsv1.DaemonSet).Status
				return s.ObservedGeneration == o.GetGeneration() && s.CurrentNumberScheduled == size && s.UpdatedNumberScheduled == size && s.NumberAvailable == size
			}, &appsv1.DaemonSetList{}},
	}
}

// trial is one workload in one cluster, going through one fault.
type trial struct {
	*controllertest.Cluster
	t     *testing.T
	w     workload
	clock *controllertest.JumpingClock
	// remote is how the controllers reach the cluster, if not by function calls.
	remote *skiffclient.Set
	stop   []func()
	image  int
}

func (x *trial) startControllers() {
	for account, make := range map[string]func(controller.Deps) (controller.Runnable, error){
		"deployment-controller": deployment.New, "replicaset-controller": replicaset.New, "replication-controller": replicationcontroller.New,
		"statefulset-controller": statefulset.New, "daemon-set-controller": daemonset.New,
		"generic-garbage-collector": func(d controller.Deps) (controller.Runnable, error) { return garbagecollector.New(d, x.Discover) },
	} {
		if x.remote != nil {
			x.stop = append(x.stop, x.RunOver(*x.remote, account, make))
			continue
		}
		x.stop = append(x.stop, x.Run(account, make))
	}
}

func (x *trial) stopControllers() {
	for _, stop := range x.stop {
		stop()
	}
	x.stop = nil
}

func (x *trial) object() client.Object {
	return controllertest.Get(x.Cluster, "default", "w", x.w.make())
}

func (x *trial) pods() []corev1.Pod { return x.Pods("default", appLabels) }

// update changes the template, which starts a rollout where there are any.
func (x *trial) update() {
	x.image++
	controllertest.Change(x.Cluster, x.object(), func(o client.Object) {
		x.w.template(o).Spec.Containers[0].Image = fmt.Sprintf("web:%d", x.image)
	})
}

func (x *trial) settle(what string) {
	x.t.Helper()
	x.Eventually(what, x.w.list, func() bool { return x.w.settled(x.object()) })
	x.Eventually(what+": the end of other pods", &corev1.PodList{}, func() bool {
		n := 0
		for _, p := range x.pods() {
			switch {
			case p.Status.Phase == corev1.PodFailed:
			case !alive(&p) || metav1.GetControllerOf(&p) == nil || len(p.Finalizers) > 0:
				return false
			default:
				n++
			}
		}
		return n == size
	})
}

// alive pods count: what failed is kept by some for people to look at.
func alive(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Labels["app"] == "w" && p.Status.Phase != corev1.PodFailed
}

// never more pods than allowed, and never fewer than promised.
func (x *trial) promise(least, most int) {
	x.Always("default", func(pods []*corev1.Pod) error {
		all, working := 0, 0
		for _, p := range pods {
			if alive(p) {
				all++
				if p.Status.Phase == corev1.PodRunning {
					working++
				}
			}
		}
		if all > most || working < least {
			return fmt.Errorf("%d pods, %d of them work; want at most %d, and at least %d that work", all, working, most, least)
		}
		return nil
	})
}

func (x *trial) eachPod(change func(p *corev1.Pod) bool) {
	for _, p := range x.pods() {
		if fresh := p.DeepCopy(); change(fresh) {
			if err := x.Client.Update(context.Background(), fresh); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
				x.t.Fatal(err)
			}
		}
	}
}

// faults are what can go wrong. Each begins with all pods there, and may end
// in the middle of a rollout.
var faults = []struct {
	name string
	// least and most are added to what the workload promises.
	least, most int
	happen      func(*trial)
}{
	{"nothing", 0, 0, func(x *trial) { x.update() }},
	{"others write at the same time", 0, 0, func(x *trial) {
		x.update()
		for i := range 15 {
			controllertest.Change(x.Cluster, x.object(), func(o client.Object) { o.SetAnnotations(map[string]string{"count": fmt.Sprint(i)}) })
			x.eachPod(func(p *corev1.Pod) bool { p.Annotations = map[string]string{"count": fmt.Sprint(i)}; return true })
		}
	}},
	{"restarts in the middle", 0, 0, func(x *trial) {
		for range 5 {
			x.update()
			x.stopControllers()
			x.startControllers()
		}
	}},
	// What was not answered is done again, until it is seen.
	{"watches are lost", -2, 2, func(x *trial) {
		x.stopControllers()
		set, wire := x.Remote()
		x.remote = &set
		x.startControllers()
		x.update()
		x.settle("rollout over the network")
		for range 3 {
			x.update()
			wire.Cut()
		}
	}},
	{"changes while nobody looks", -1, 0, func(x *trial) {
		x.stopControllers()
		x.update()
		x.Delete(ptr.To(x.pods()[0]))
		x.startControllers()
	}},
	{"the clock jumps", 0, 0, func(x *trial) {
		x.update()
		for _, d := range []time.Duration{time.Hour, -2 * time.Hour, time.Hour} {
			x.clock.Jump(d)
			x.update()
		}
	}},
	{"pods lose their owner", 0, 0, func(x *trial) {
		x.eachPod(func(p *corev1.Pod) bool { p.OwnerReferences = nil; return p.Name[len(p.Name)-1]%2 == 0 })
	}},
	{"pods lose their labels", -size, 0, func(x *trial) {
		for _, p := range x.pods()[:2] {
			p.Labels = nil
			if err := x.Client.Update(context.Background(), &p); err != nil {
				x.t.Fatal(err)
			}
			if _, named := x.object().(*appsv1.StatefulSet); named {
				// Its name is taken until it goes.
				x.Delete(&p)
			}
		}
	}},
	{"pods fail", -2, 0, func(x *trial) {
		for _, p := range x.pods()[:2] {
			x.Fail(&p)
		}
	}},
	{"deleted and made again under the same name", -size, size, func(x *trial) {
		for range 3 {
			x.Delete(x.object(), client.PropagationPolicy(metav1.DeletePropagationBackground))
			x.Create(x.w.make())
		}
	}},
	{"orphaned and adopted", 0, 0, func(x *trial) {
		old := x.object()
		x.Delete(old, client.PropagationPolicy(metav1.DeletePropagationOrphan))
		x.Eventually("the end of the first", x.w.list, func() bool {
			return apierrors.IsNotFound(x.Client.Get(context.Background(), client.ObjectKeyFromObject(old), x.w.make()))
		})
		x.Create(x.w.make())
	}},
}

func TestFaults(t *testing.T) {
	for _, w := range workloads() {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			for _, fault := range faults {
				t.Run(fault.name, func(t *testing.T) {
					x := newTrial(t, w)
					x.promise(max(0, w.least+fault.least), w.most+fault.most)
					fault.happen(x)
					x.settle("recovery")
					x.quiet()
					x.nothingLeaked()
				})
			}
		})
	}
}

// newTrial returns when all pods are there.
func newTrial(t *testing.T, w workload) *trial {
	t.Helper()
	clk := &controllertest.JumpingClock{}
	x := &trial{Cluster: controllertest.StartAt(t, clk), t: t, w: w, clock: clk}
	x.startControllers()
	x.Kubelet()
	for i := range size {
		x.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%d", i)}})
	}
	x.Create(w.make())
	x.settle("creation")
	return x
}

// TestCrowdedNamespace rolls out beside 10,000 pods of nobody.
func TestCrowdedNamespace(t *testing.T) {
	x := newTrial(t, workloads()[0])
	const crowd, hands = 10_000, 50
	var making sync.WaitGroup
	for h := range hands {
		making.Go(func() {
			for i := range crowd / hands {
				p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("bystander-%d-%d", h, i)}, Spec: podTemplate().Spec}
				p.Spec.Containers[0].Image = "hold"
				if err := x.Client.Create(context.Background(), p); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	making.Wait()
	x.promise(x.w.least, x.w.most)
	before := x.Revision()
	x.update()
	x.settle("rollout")
	// A pod is made, gets its node, becomes ready, is deleted and is gone: five
	// writes. Each step of the rollout is noted by the sets, by the deployment
	// and in Events.
	if n := x.Revision() - before; n > size*25 {
		t.Errorf("%d writes for a rollout of %d pods", n, size)
	}
	x.quiet()
}

// nothingLeaked: the history is short.
func (x *trial) nothingLeaked() {
	x.t.Helper()
	var sets appsv1.ReplicaSetList
	var revisions appsv1.ControllerRevisionList
	x.Eventually("the end of old revisions", &appsv1.ControllerRevisionList{}, func() bool {
		x.List(&revisions)
		return len(revisions.Items) <= 4
	})
	x.Eventually("the end of old replica sets", &appsv1.ReplicaSetList{}, func() bool {
		x.List(&sets)
		return len(sets.Items) <= 4
	})
}

// quiet: once all is settled, an event costs a write or two, and nothing goes
// on by itself.
func (x *trial) quiet() {
	x.t.Helper()
	const rounds, writes = 5, 4
	before := x.Revision()
	for i := range rounds {
		// A new generation, which the controller has to say it has seen.
		controllertest.Change(x.Cluster, x.object(), func(o client.Object) { setMinReady(o, int32(1-i%2)) })
		x.Eventually("the answer to an event", x.w.list, func() bool {
			o := x.object()
			return observed(o) == o.GetGeneration()
		})
	}
	if n := x.Revision() - before; n > rounds*(1+writes)+10 {
		x.t.Errorf("%d writes for %d events", n, rounds)
	}
}

func setMinReady(o client.Object, n int32) {
	switch o := o.(type) {
	case *appsv1.Deployment:
		o.Spec.MinReadySeconds = n
	case *appsv1.ReplicaSet:
		o.Spec.MinReadySeconds = n
	case *corev1.ReplicationController:
		o.Spec.MinReadySeconds = n
	case *appsv1.StatefulSet:
		o.Spec.MinReadySeconds = n
	case *appsv1.DaemonSet:
		o.Spec.MinReadySeconds = n
	}
}

func observed(o client.Object) int64 {
	switch o := o.(type) {
	case *appsv1.Deployment:
		return o.Status.ObservedGeneration
	case *appsv1.ReplicaSet:
		return o.Status.ObservedGeneration
	case *corev1.ReplicationController:
		return o.Status.ObservedGeneration
	case *appsv1.StatefulSet:
		return o.Status.ObservedGeneration
	case *appsv1.DaemonSet:
		return o.Status.ObservedGeneration
	}
	return 0
}
