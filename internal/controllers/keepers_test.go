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

type (
	keeping = controllertest.Keeping
	runs    = controllertest.Runs
)

// pods makes the pods 0 to 4 of an application, with addresses.
func pods(x *keeping) {
	for i := range 5 {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("p", i), Labels: map[string]string{"app": "w"}},
			Spec: corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		x.Create(p)
		p.Status.Phase, p.Status.PodIP = corev1.PodRunning, fmt.Sprint("10.0.0.", i+1)
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		if err := x.Client.Status().Update(context.Background(), p); err != nil {
			x.T.Fatal(err)
		}
	}
}

// members is how many of them belong to the application.
func members(x *keeping) int { return len(x.Pods("default", client.MatchingLabels{"app": "w"})) }

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

func keepers() []controllertest.Keeper {
	meta := metav1.ObjectMeta{Namespace: "default", Name: "w"}
	service := func() client.Object {
		return &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Selector: appLabels, Ports: []corev1.ServicePort{{Port: 80}}}}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}
	return []controllertest.Keeper{
		{Name: "endpointslice", Run: func(x *keeping) runs {
			return runs{"endpointslice-controller": endpointslice.New, "generic-garbage-collector": collector(x)}
		}, Around: []client.Object{node}, Before: pods, Main: service, Poke: join, Right: func(x *keeping) bool {
			var list discoveryv1.EndpointSliceList
			x.List(&list, client.InNamespace("default"))
			n := 0
			for _, s := range list.Items {
				if s.OwnerReferences[0].UID != x.Object().GetUID() {
					return false
				}
				n += len(s.Endpoints)
			}
			return n == members(x) && len(list.Items) == 1
		}, Watched: &discoveryv1.EndpointSliceList{}, Writes: 1},
		{Name: "endpoints", Run: func(*keeping) runs { return runs{"endpoint-controller": endpoints.New} },
			Around: []client.Object{node}, Before: pods, Main: service, Poke: join, Right: func(x *keeping) bool {
				e := &corev1.Endpoints{} //nolint:staticcheck // SA1019: the API is served
				if x.Client.Get(context.Background(), client.ObjectKeyFromObject(x.Object()), e) != nil {
					return false
				}
				n := 0
				for _, s := range e.Subsets {
					n += len(s.Addresses) + len(s.NotReadyAddresses)
				}
				return n == members(x)
			}, Watched: &corev1.EndpointsList{}, Writes: 1}, //nolint:staticcheck // SA1019: the API is served
		{Name: "endpointslicemirroring", Run: func(x *keeping) runs {
			return runs{"endpointslicemirroring-controller": endpointslicemirroring.New, "generic-garbage-collector": collector(x)}
		}, Around: []client.Object{&corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}},
			Main: func() client.Object {
				return &corev1.Endpoints{ObjectMeta: meta, Subsets: []corev1.EndpointSubset{{ //nolint:staticcheck // SA1019: the API is served
					Addresses: []corev1.EndpointAddress{{IP: "10.0.0.1"}}, Ports: []corev1.EndpointPort{{Port: 80}}}}} //nolint:staticcheck // SA1019: the API is served
			},
			Poke: func(x *keeping, i int) {
				controllertest.Change(x.Cluster, x.Object().(*corev1.Endpoints), func(e *corev1.Endpoints) { //nolint:staticcheck // SA1019: the API is served
					e.Subsets[0].Addresses[0].IP = fmt.Sprintf("10.0.1.%d", i+1)
				})
			}, Right: func(x *keeping) bool {
				var list discoveryv1.EndpointSliceList
				x.List(&list, client.InNamespace("default"))
				want := x.Object().(*corev1.Endpoints).Subsets[0].Addresses[0].IP //nolint:staticcheck // SA1019: the API is served
				return len(list.Items) == 1 && len(list.Items[0].Endpoints) == 1 && list.Items[0].Endpoints[0].Addresses[0] == want
			}, Watched: &discoveryv1.EndpointSliceList{}, Writes: 1},
		{Name: "disruption", Run: func(*keeping) runs { return runs{"disruption-controller": disruption.New} },
			Around: []client.Object{node}, Before: pods, Main: func() client.Object {
				one := intstr.FromInt32(1)
				return &policyv1.PodDisruptionBudget{ObjectMeta: meta, Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: appLabels}}}
			}, Poke: join, Right: func(x *keeping) bool {
				s := x.Object().(*policyv1.PodDisruptionBudget).Status
				n := int32(members(x))
				return s.ObservedGeneration == x.Object().GetGeneration() && s.CurrentHealthy == n && s.ExpectedPods == n && s.DisruptionsAllowed == max(0, n-1)
			}, Watched: &policyv1.PodDisruptionBudgetList{}, Writes: 3},
		{Name: "resourcequota", Run: func(x *keeping) runs {
			return runs{"resourcequota-controller": func(d controller.Deps) (controller.Runnable, error) { return resourcequota.New(d, x.Discover) }}
		}, Main: func() client.Object {
			return &corev1.ResourceQuota{ObjectMeta: meta, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"configmaps": resource.MustParse("100")}}}
		}, Poke: toggleMap, Right: func(x *keeping) bool {
			var list corev1.ConfigMapList
			x.List(&list, client.InNamespace("default"))
			used, known := x.Object().(*corev1.ResourceQuota).Status.Used["configmaps"]
			return known && used.Value() == int64(len(list.Items))
		}, Watched: &corev1.ResourceQuotaList{}, Writes: 2},
		{Name: "persistentvolume", Run: func(*keeping) runs { return runs{"persistent-volume-binder": persistentvolume.New} },
			Around: volumes(9), Main: func() client.Object {
				return &corev1.PersistentVolumeClaim{ObjectMeta: meta, Spec: corev1.PersistentVolumeClaimSpec{
					StorageClassName: ptr.To(""), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}}}}
			}, Poke: func(x *keeping, i int) {
				controllertest.Change(x.Cluster, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("v", i%9)}}, func(pv *corev1.PersistentVolume) {
					pv.Labels = map[string]string{"poked": fmt.Sprint(i)}
				})
			}, Right: func(x *keeping) bool {
				c := x.Object().(*corev1.PersistentVolumeClaim)
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
			}, Watched: &corev1.PersistentVolumeClaimList{}, Writes: 0},
		{Name: "pvcprotection", Run: func(*keeping) runs { return runs{"pvc-protection-controller": storageprotection.NewClaims} },
			Main: func() client.Object {
				return &corev1.PersistentVolumeClaim{ObjectMeta: meta, Spec: corev1.PersistentVolumeClaimSpec{
					StorageClassName: ptr.To(""), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}}}}
			}, Poke: func(x *keeping, _ int) {
				controllertest.Change(x.Cluster, x.Object(), func(o client.Object) { o.SetFinalizers(nil) })
			}, Right: func(x *keeping) bool {
				return slices.Equal(x.Object().GetFinalizers(), []string{"kubernetes.io/pvc-protection"})
			},
			Watched: &corev1.PersistentVolumeClaimList{}, Writes: 1},
		{Name: "garbagecollector", Run: func(x *keeping) runs { return runs{"generic-garbage-collector": collector(x)} },
			Main: func() client.Object { return &corev1.ConfigMap{ObjectMeta: meta} }, Poke: func(x *keeping, i int) {
				owned := func(kind string, uid types.UID) *corev1.ConfigMap {
					m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: kind}}
					m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "w", UID: uid}}
					return m
				}
				x.Create(owned("kept-", x.Object().GetUID()), owned("orphan-", types.UID(fmt.Sprint("gone-", i))))
			}, Right: func(x *keeping) bool {
				var list corev1.ConfigMapList
				x.List(&list, client.InNamespace("default"))
				return !slices.ContainsFunc(list.Items, func(m corev1.ConfigMap) bool {
					return len(m.OwnerReferences) > 0 && m.OwnerReferences[0].UID != x.Object().GetUID()
				})
			}, Watched: &corev1.ConfigMapList{}, Writes: 2},
		{Name: "serviceaccount", Run: func(*keeping) runs { return runs{"service-account-controller": serviceaccount.New} },
			Main: func() client.Object { return &corev1.Secret{ObjectMeta: meta} }, Poke: func(x *keeping, _ int) {
				err := x.Client.Delete(context.Background(), account("default"))
				if client.IgnoreNotFound(err) != nil {
					x.T.Fatal(err)
				}
			}, Right: func(x *keeping) bool {
				return x.Client.Get(context.Background(), client.ObjectKeyFromObject(account("default")), account("default")) == nil
			}, Watched: &corev1.ServiceAccountList{}, Writes: 1},
		{Name: "rootca", Run: func(*keeping) runs {
			return runs{"root-ca-cert-publisher": func(d controller.Deps) (controller.Runnable, error) { return rootca.New(d, []byte("ca")) }}
		}, Main: func() client.Object {
			return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kube-root-ca.crt"}}
		}, Poke: func(x *keeping, i int) {
			controllertest.Change(x.Cluster, x.Object().(*corev1.ConfigMap), func(m *corev1.ConfigMap) { m.Data = map[string]string{"ca.crt": fmt.Sprint("forged ", i)} })
		}, Right: func(x *keeping) bool {
			m := &corev1.ConfigMap{}
			return x.Client.Get(context.Background(), client.ObjectKey{Namespace: "default", Name: "kube-root-ca.crt"}, m) == nil && m.Data["ca.crt"] == "ca"
		}, Watched: &corev1.ConfigMapList{}, Writes: 1},
		{Name: "clusterrole", Run: func(*keeping) runs { return runs{"clusterrole-aggregation-controller": clusterrole.New} },
			Main: func() client.Object {
				return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "w"}, AggregationRule: &rbacv1.AggregationRule{
					ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": "w"}}}}}
			}, Poke: func(x *keeping, i int) {
				role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{GenerateName: "part-", Labels: map[string]string{"to": "w"}}}
				role.Rules = []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{fmt.Sprint("r", i)}}}
				x.Create(role)
			}, Right: func(x *keeping) bool {
				var parts rbacv1.ClusterRoleList
				x.List(&parts, client.MatchingLabels{"to": "w"})
				want := map[string]bool{}
				for _, p := range parts.Items {
					want[p.Rules[0].Resources[0]] = true
				}
				return len(x.Object().(*rbacv1.ClusterRole).Rules) == len(want)
			}, Watched: &rbacv1.ClusterRoleList{}, Writes: 1},
		{Name: "ttl", Run: func(*keeping) runs { return runs{"ttl-controller": ttl.New} },
			Main: func() client.Object { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w"}} }, Poke: func(x *keeping, i int) {
				controllertest.Change(x.Cluster, x.Object(), func(o client.Object) { o.SetAnnotations(map[string]string{"poked": fmt.Sprint(i)}) })
			}, Right: func(x *keeping) bool { return x.Object().GetAnnotations()["node.alpha.kubernetes.io/ttl"] == "0" }, Watched: &corev1.NodeList{}, Writes: 1},
		{Name: "nodeipam", Run: func(*keeping) runs {
			return runs{"node-controller": func(d controller.Deps) (controller.Runnable, error) {
				return nodeipam.New(d, nodeipam.Options{ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/20")}})
			}}
		}, Main: func() client.Object { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w"}} }, Poke: func(x *keeping, i int) {
			// Ranges are few: those of nodes that are gone are given again.
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i%4)}}
			err := x.Client.Delete(context.Background(), n)
			if client.IgnoreNotFound(err) != nil {
				x.T.Fatal(err)
			}
			x.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name}})
		}, Right: func(x *keeping) bool {
			var list corev1.NodeList
			x.List(&list)
			taken := map[string]string{}
			for _, n := range list.Items {
				if n.Spec.PodCIDR == "" {
					return false
				}
				if other := taken[n.Spec.PodCIDR]; other != "" {
					x.T.Fatalf("%s and %s have the range %s", n.Name, other, n.Spec.PodCIDR)
				}
				taken[n.Spec.PodCIDR] = n.Name
			}
			return true
		}, Watched: &corev1.NodeList{}, Writes: 2},
		{Name: "podautoscaler", Run: func(*keeping) runs {
			return runs{"horizontal-pod-autoscaler": func(d controller.Deps) (controller.Runnable, error) {
				return podautoscaler.New(d, podautoscaler.Options{Interval: 50 * time.Millisecond})
			}}
		}, Around: []client.Object{&appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](9), Selector: &metav1.LabelSelector{MatchLabels: appLabels}, Template: podTemplate()}}},
			Main: func() client.Object {
				return &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: meta, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
					ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "w"}, MinReplicas: ptr.To[int32](2), MaxReplicas: 5}}
			}, Poke: func(x *keeping, i int) {
				controllertest.Change(x.Cluster, &appsv1.ReplicaSet{ObjectMeta: meta}, func(r *appsv1.ReplicaSet) { r.Spec.Replicas = ptr.To[int32]([]int32{1, 9}[i%2]) })
			}, Right: func(x *keeping) bool {
				n := *controllertest.Get(x.Cluster, "default", "w", &appsv1.ReplicaSet{}).Spec.Replicas
				return n >= 2 && n <= 5
			}, Watched: &appsv1.ReplicaSetList{}, Writes: 8},
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
		x.T.Fatal(err)
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

// TestKeepers: whatever goes wrong, things are as they should be in the end,
// nothing is left over, and afterwards an event costs few writes.
func TestKeepers(t *testing.T) {
	for _, k := range append(keepers(), tidiers()...) {
		k.Keep(t)
	}
}
