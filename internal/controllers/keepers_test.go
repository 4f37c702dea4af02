package controllers_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	skiffclient "skiff/internal/client"
	"skiff/internal/controllers/clusterrole"
	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/disruption"
	"skiff/internal/controllers/endpoints"
	"skiff/internal/controllers/endpointslice"
	"skiff/internal/controllers/endpointslicemirroring"
	"skiff/internal/controllers/garbagecollector"
	"skiff/internal/controllers/nodeipam"
	"skiff/internal/controllers/persistentvolume"
	"skiff/internal/controllers/podautoscaler"
	"skiff/internal/controllers/resourcequota"
	"skiff/internal/controllers/rootca"
	"skiff/internal/controllers/serviceaccount"
	"skiff/internal/controllers/storageprotection"
	"skiff/internal/controllers/ttl"
)

type runs map[string]func(controller.Deps) (controller.Runnable, error)

// keeper is a controller that keeps something the way that other objects say.
type keeper struct {
	name string
	run  func(*keeping) runs
	// around is made once; main makes what the controller serves.
	around []client.Object
	main   func() client.Object
	// poke changes what is right; right says whether it is so, and nothing is left
	// over. Changes of watched may make it so.
	poke    func(x *keeping, i int)
	right   func(x *keeping) bool
	watched client.ObjectList
	// writes is how many of them a poke may cost, besides its own.
	writes int
}

// keeping is one controller in one cluster, going through one fault.
type keeping struct {
	*controllertest.Cluster
	t      *testing.T
	k      keeper
	clock  *controllertest.JumpingClock
	remote *skiffclient.Set
	stop   []func()
}

func (x *keeping) start() {
	for account, make := range x.k.run(x) {
		if x.remote != nil {
			x.stop = append(x.stop, x.RunOver(*x.remote, account, make))
			continue
		}
		x.stop = append(x.stop, x.Run(account, make))
	}
}

func (x *keeping) end() {
	for _, stop := range x.stop {
		stop()
	}
	x.stop = nil
}

func (x *keeping) settle(what string) {
	x.t.Helper()
	x.Eventually(what, x.k.watched, func() bool { return x.k.right(x) })
}

func (x *keeping) object() client.Object {
	o := x.k.main()
	return controllertest.Get(x.Cluster, o.GetNamespace(), o.GetName(), o)
}

// pods makes the pods 0 to 4 of an application, with addresses.
func (x *keeping) pods() {
	for i := range 5 {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("p", i), Labels: map[string]string{"app": "w"}},
			Spec: corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		x.Create(p)
		p.Status.Phase, p.Status.PodIP = corev1.PodRunning, fmt.Sprint("10.0.0.", i+1)
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		if err := x.Client.Status().Update(context.Background(), p); err != nil {
			x.t.Fatal(err)
		}
	}
}

// members is how many of them belong to the application.
func (x *keeping) members() int { return len(x.Pods("default", client.MatchingLabels{"app": "w"})) }

// join makes a pod belong, or not any more.
func join(x *keeping, i int) {
	p := controllertest.Get(x.Cluster, "default", fmt.Sprint("p", i%5), &corev1.Pod{})
	controllertest.Change(x.Cluster, p, func(p *corev1.Pod) {
		if p.Labels["app"] == "w" {
			p.Labels = map[string]string{"app": "other"}
		} else {
			p.Labels = map[string]string{"app": "w"}
		}
	})
}

func collector(x *keeping) func(controller.Deps) (controller.Runnable, error) {
	return func(d controller.Deps) (controller.Runnable, error) { return garbagecollector.New(d, x.Discover) }
}

func keepers() []keeper {
	meta := metav1.ObjectMeta{Namespace: "default", Name: "w"}
	service := func() client.Object {
		return &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Selector: appLabels, Ports: []corev1.ServicePort{{Port: 80}}}}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}
	return []keeper{
		{"endpointslice", func(x *keeping) runs {
			return runs{"endpointslice-controller": endpointslice.New, "generic-garbage-collector": collector(x)}
		}, []client.Object{node}, service, join, func(x *keeping) bool {
			var list discoveryv1.EndpointSliceList
			x.List(&list, client.InNamespace("default"))
			n := 0
			for _, s := range list.Items {
				if s.OwnerReferences[0].UID != x.object().GetUID() {
					return false
				}
				n += len(s.Endpoints)
			}
			return n == x.members() && len(list.Items) == 1
		}, &discoveryv1.EndpointSliceList{}, 1},
		{"endpoints", func(*keeping) runs { return runs{"endpoint-controller": endpoints.New} },
			[]client.Object{node}, service, join, func(x *keeping) bool {
				e := &corev1.Endpoints{} //nolint:staticcheck // SA1019: the API is served
				if x.Client.Get(context.Background(), client.ObjectKeyFromObject(x.object()), e) != nil {
					return false
				}
				n := 0
				for _, s := range e.Subsets {
					n += len(s.Addresses) + len(s.NotReadyAddresses)
				}
				return n == x.members()
			}, &corev1.EndpointsList{}, 1}, //nolint:staticcheck // SA1019: the API is served
		{"endpointslicemirroring", func(x *keeping) runs {
			return runs{"endpointslicemirroring-controller": endpointslicemirroring.New, "generic-garbage-collector": collector(x)}
		}, []client.Object{&corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}},
			func() client.Object {
				return &corev1.Endpoints{ObjectMeta: meta, Subsets: []corev1.EndpointSubset{{ //nolint:staticcheck // SA1019: the API is served
					Addresses: []corev1.EndpointAddress{{IP: "10.0.0.1"}}, Ports: []corev1.EndpointPort{{Port: 80}}}}} //nolint:staticcheck // SA1019: the API is served
			},
			func(x *keeping, i int) {
				controllertest.Change(x.Cluster, x.object().(*corev1.Endpoints), func(e *corev1.Endpoints) { //nolint:staticcheck // SA1019: the API is served
					e.Subsets[0].Addresses[0].IP = fmt.Sprintf("10.0.1.%d", i+1)
				})
			}, func(x *keeping) bool {
				var list discoveryv1.EndpointSliceList
				x.List(&list, client.InNamespace("default"))
				want := x.object().(*corev1.Endpoints).Subsets[0].Addresses[0].IP //nolint:staticcheck // SA1019: the API is served
				return len(list.Items) == 1 && len(list.Items[0].Endpoints) == 1 && list.Items[0].Endpoints[0].Addresses[0] == want
			}, &discoveryv1.EndpointSliceList{}, 1},
		{"disruption", func(*keeping) runs { return runs{"disruption-controller": disruption.New} },
			[]client.Object{node}, func() client.Object {
				one := intstr.FromInt32(1)
				return &policyv1.PodDisruptionBudget{ObjectMeta: meta, Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: appLabels}}}
			}, join, func(x *keeping) bool {
				s := x.object().(*policyv1.PodDisruptionBudget).Status
				n := int32(x.members())
				return s.ObservedGeneration == x.object().GetGeneration() && s.CurrentHealthy == n && s.ExpectedPods == n && s.DisruptionsAllowed == max(0, n-1)
			}, &policyv1.PodDisruptionBudgetList{}, 3},
		{"resourcequota", func(x *keeping) runs {
			return runs{"resourcequota-controller": func(d controller.Deps) (controller.Runnable, error) { return resourcequota.New(d, x.Discover) }}
		}, nil, func() client.Object {
			return &corev1.ResourceQuota{ObjectMeta: meta, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"configmaps": resource.MustParse("100")}}}
		}, toggleMap, func(x *keeping) bool {
			var list corev1.ConfigMapList
			x.List(&list, client.InNamespace("default"))
			used, known := x.object().(*corev1.ResourceQuota).Status.Used["configmaps"]
			return known && used.Value() == int64(len(list.Items))
		}, &corev1.ResourceQuotaList{}, 2},
		{"persistentvolume", func(*keeping) runs { return runs{"persistent-volume-binder": persistentvolume.New} },
			volumes(9), func() client.Object {
				return &corev1.PersistentVolumeClaim{ObjectMeta: meta, Spec: corev1.PersistentVolumeClaimSpec{
					StorageClassName: ptr.To(""), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}}}}
			}, func(x *keeping, i int) {
				controllertest.Change(x.Cluster, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("v", i%9)}}, func(pv *corev1.PersistentVolume) {
					pv.Labels = map[string]string{"poked": fmt.Sprint(i)}
				})
			}, func(x *keeping) bool {
				c := x.object().(*corev1.PersistentVolumeClaim)
				var list corev1.PersistentVolumeList
				x.List(&list)
				bound := 0
				for _, pv := range list.Items {
					ours := pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID == c.UID
					if ours != (pv.Name == c.Spec.VolumeName) || ours && pv.Status.Phase != corev1.VolumeBound {
						return false
					}
					if ours {
						bound++
					}
				}
				return bound == 1 && c.Status.Phase == corev1.ClaimBound
			}, &corev1.PersistentVolumeClaimList{}, 0},
		{"pvcprotection", func(*keeping) runs { return runs{"pvc-protection-controller": storageprotection.NewClaims} },
			nil, func() client.Object {
				return &corev1.PersistentVolumeClaim{ObjectMeta: meta, Spec: corev1.PersistentVolumeClaimSpec{
					StorageClassName: ptr.To(""), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}}}}
			}, func(x *keeping, _ int) {
				controllertest.Change(x.Cluster, x.object(), func(o client.Object) { o.SetFinalizers(nil) })
			}, func(x *keeping) bool {
				return slices.Equal(x.object().GetFinalizers(), []string{"kubernetes.io/pvc-protection"})
			},
			&corev1.PersistentVolumeClaimList{}, 1},
		{"garbagecollector", func(x *keeping) runs { return runs{"generic-garbage-collector": collector(x)} },
			nil, func() client.Object { return &corev1.ConfigMap{ObjectMeta: meta} }, func(x *keeping, i int) {
				owned := func(kind string, uid types.UID) *corev1.ConfigMap {
					m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: kind}}
					m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "w", UID: uid}}
					return m
				}
				x.Create(owned("kept-", x.object().GetUID()), owned("orphan-", types.UID(fmt.Sprint("gone-", i))))
			}, func(x *keeping) bool {
				var list corev1.ConfigMapList
				x.List(&list, client.InNamespace("default"))
				return !slices.ContainsFunc(list.Items, func(m corev1.ConfigMap) bool {
					return len(m.OwnerReferences) > 0 && m.OwnerReferences[0].UID != x.object().GetUID()
				})
			}, &corev1.ConfigMapList{}, 2},
		{"serviceaccount", func(*keeping) runs { return runs{"service-account-controller": serviceaccount.New} },
			nil, func() client.Object { return &corev1.Secret{ObjectMeta: meta} }, func(x *keeping, _ int) {
				err := x.Client.Delete(context.Background(), account("default"))
				if client.IgnoreNotFound(err) != nil {
					x.t.Fatal(err)
				}
			}, func(x *keeping) bool {
				return x.Client.Get(context.Background(), client.ObjectKeyFromObject(account("default")), account("default")) == nil
			}, &corev1.ServiceAccountList{}, 1},
		{"rootca", func(*keeping) runs {
			return runs{"root-ca-cert-publisher": func(d controller.Deps) (controller.Runnable, error) { return rootca.New(d, []byte("ca")) }}
		}, nil, func() client.Object {
			return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kube-root-ca.crt"}}
		}, func(x *keeping, i int) {
			controllertest.Change(x.Cluster, x.object().(*corev1.ConfigMap), func(m *corev1.ConfigMap) { m.Data = map[string]string{"ca.crt": fmt.Sprint("forged ", i)} })
		}, func(x *keeping) bool {
			m := &corev1.ConfigMap{}
			return x.Client.Get(context.Background(), client.ObjectKey{Namespace: "default", Name: "kube-root-ca.crt"}, m) == nil && m.Data["ca.crt"] == "ca"
		}, &corev1.ConfigMapList{}, 1},
		{"clusterrole", func(*keeping) runs { return runs{"clusterrole-aggregation-controller": clusterrole.New} },
			nil, func() client.Object {
				return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "w"}, AggregationRule: &rbacv1.AggregationRule{
					ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": "w"}}}}}
			}, func(x *keeping, i int) {
				role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{GenerateName: "part-", Labels: map[string]string{"to": "w"}}}
				role.Rules = []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{fmt.Sprint("r", i)}}}
				x.Create(role)
			}, func(x *keeping) bool {
				var parts rbacv1.ClusterRoleList
				x.List(&parts, client.MatchingLabels{"to": "w"})
				want := map[string]bool{}
				for _, p := range parts.Items {
					want[p.Rules[0].Resources[0]] = true
				}
				return len(x.object().(*rbacv1.ClusterRole).Rules) == len(want)
			}, &rbacv1.ClusterRoleList{}, 1},
		{"ttl", func(*keeping) runs { return runs{"ttl-controller": ttl.New} },
			nil, func() client.Object { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w"}} }, func(x *keeping, i int) {
				controllertest.Change(x.Cluster, x.object(), func(o client.Object) { o.SetAnnotations(map[string]string{"poked": fmt.Sprint(i)}) })
			}, func(x *keeping) bool { return x.object().GetAnnotations()["node.alpha.kubernetes.io/ttl"] == "0" }, &corev1.NodeList{}, 1},
		{"nodeipam", func(*keeping) runs {
			return runs{"node-controller": func(d controller.Deps) (controller.Runnable, error) {
				return nodeipam.New(d, nodeipam.Options{ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/20")}})
			}}
		}, nil, func() client.Object { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w"}} }, func(x *keeping, i int) {
			// Ranges are few: those of nodes that are gone are given again.
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i%4)}}
			err := x.Client.Delete(context.Background(), n)
			if client.IgnoreNotFound(err) != nil {
				x.t.Fatal(err)
			}
			x.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name}})
		}, func(x *keeping) bool {
			var list corev1.NodeList
			x.List(&list)
			taken := map[string]string{}
			for _, n := range list.Items {
				if n.Spec.PodCIDR == "" {
					return false
				}
				if other := taken[n.Spec.PodCIDR]; other != "" {
					x.t.Fatalf("%s and %s have the range %s", n.Name, other, n.Spec.PodCIDR)
				}
				taken[n.Spec.PodCIDR] = n.Name
			}
			return true
		}, &corev1.NodeList{}, 2},
		{"podautoscaler", func(*keeping) runs {
			return runs{"horizontal-pod-autoscaler": func(d controller.Deps) (controller.Runnable, error) {
				return podautoscaler.New(d, podautoscaler.Options{Interval: 50 * time.Millisecond})
			}}
		}, []client.Object{&appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](9), Selector: &metav1.LabelSelector{MatchLabels: appLabels}, Template: podTemplate()}}},
			func() client.Object {
				return &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: meta, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
					ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "w"}, MinReplicas: ptr.To[int32](2), MaxReplicas: 5}}
			}, func(x *keeping, i int) {
				controllertest.Change(x.Cluster, &appsv1.ReplicaSet{ObjectMeta: meta}, func(r *appsv1.ReplicaSet) { r.Spec.Replicas = ptr.To[int32]([]int32{1, 9}[i%2]) })
			}, func(x *keeping) bool {
				n := *controllertest.Get(x.Cluster, "default", "w", &appsv1.ReplicaSet{}).Spec.Replicas
				return n >= 2 && n <= 5
			}, &appsv1.ReplicaSetList{}, 8},
	}
}

func account(namespace string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"}}
}

func toggleMap(x *keeping, i int) {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("m", i%3)}}
	err := x.Client.Delete(context.Background(), m)
	if apierrors.IsNotFound(err) {
		x.Create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: m.Name}})
	} else if err != nil {
		x.t.Fatal(err)
	}
}

func volumes(n int) []client.Object {
	var out []client.Object
	for i := range n {
		out = append(out, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("v", i)}, Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{"storage": resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain, PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}}})
	}
	return out
}

var troubles = []struct {
	name   string
	happen func(*keeping)
}{
	{"others write at the same time", func(x *keeping) {
		for i := range 10 {
			x.k.poke(x, i)
			controllertest.Change(x.Cluster, x.object(), func(o client.Object) {
				o.SetLabels(map[string]string{"count": fmt.Sprint(i)})
			})
		}
	}},
	{"restarts in the middle", func(x *keeping) {
		for i := range 4 {
			x.k.poke(x, i)
			x.end()
			x.start()
		}
	}},
	{"changes while nobody looks", func(x *keeping) {
		x.end()
		for i := range 3 {
			x.k.poke(x, i)
		}
		x.start()
	}},
	{"watches are lost", func(x *keeping) {
		x.end()
		set, wire := x.Remote()
		x.remote = &set
		x.start()
		for i := range 3 {
			x.k.poke(x, i)
			wire.Cut()
		}
	}},
	{"the clock jumps", func(x *keeping) {
		for i, d := range []time.Duration{time.Hour, -2 * time.Hour, time.Hour} {
			x.clock.Jump(d)
			x.k.poke(x, i)
		}
	}},
	{"made again under the same name", func(x *keeping) {
		for range 3 {
			o := x.object()
			// Nobody protects what is deleted here.
			controllertest.Change(x.Cluster, o, func(o client.Object) {
				o.SetFinalizers(nil)
			})
			x.Delete(x.object(), client.PropagationPolicy(metav1.DeletePropagationBackground))
			for err := error(nil); ; {
				if err = x.Client.Create(context.Background(), x.k.main()); !apierrors.IsAlreadyExists(err) {
					if err != nil {
						x.t.Fatal(err)
					}
					break
				}
				if c := x.object(); len(c.GetFinalizers()) > 0 {
					controllertest.Change(x.Cluster, c, func(o client.Object) { o.SetFinalizers(nil) })
				}
			}
		}
	}},
}

// quiet: an event costs few writes. The server's own beginnings may write in
// between, and so there is more than one attempt.
func (x *keeping) quiet() {
	x.t.Helper()
	const attempts, rounds, slack = 5, 6, 4
	var n int
	for range attempts {
		before := x.Revision()
		for i := range rounds {
			x.k.poke(x, i)
			x.settle("the answer to an event")
		}
		// A poke may be two writes.
		if n = x.Revision() - before; n <= rounds*(2+x.k.writes)+slack {
			return
		}
	}
	x.t.Errorf("%d writes for %d events", n, rounds)
}

// TestKeepers: whatever goes wrong, things are as they should be in the end,
// nothing is left over, and afterwards an event costs few writes.
func TestKeepers(t *testing.T) {
	for _, k := range keepers() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			for _, trouble := range troubles {
				t.Run(trouble.name, func(t *testing.T) {
					clk := &controllertest.JumpingClock{}
					x := &keeping{Cluster: controllertest.StartAt(t, clk), t: t, k: k, clock: clk}
					x.start()
					for _, o := range k.around {
						x.Create(o.DeepCopyObject().(client.Object))
					}
					if slices.ContainsFunc(k.around, func(o client.Object) bool { _, is := o.(*corev1.Node); return is }) {
						x.pods()
					}
					if err := x.Client.Create(context.Background(), k.main()); err != nil && !apierrors.IsAlreadyExists(err) {
						t.Fatal(err)
					}
					x.settle("at first")
					trouble.happen(x)
					x.settle("recovery")
					x.quiet()
				})
			}
		})
	}
}
