package quota

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

func list(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func pod(requests, limits corev1.ResourceList) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "c", Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits},
	}}}}
}

func TestUsage(t *testing.T) {
	now := time.Unix(1e9, 0)
	gr := func(s string) schema.GroupResource { return schema.ParseGroupResource(s) }
	for _, tt := range []struct {
		name string
		r    schema.GroupResource
		obj  runtime.Object
		want corev1.ResourceList
	}{
		{"finished pod", gr("pods"), &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}, list("count/pods", "1")},
		{"pod", gr("pods"), pod(list("cpu", "1", "example.com/gpu", "2"), list("memory", "1Gi")),
			list("count/pods", "1", "pods", "1", "cpu", "1", "requests.cpu", "1", "requests.example.com/gpu", "2", "limits.memory", "1Gi")},
		{"load balancer", gr("services"), &corev1.Service{Spec: corev1.ServiceSpec{Type: "LoadBalancer", Ports: []corev1.ServicePort{{}, {}}}},
			list("count/services", "1", "services", "1", "services.loadbalancers", "1", "services.nodeports", "2")},
		{"without node ports", gr("services"), &corev1.Service{Spec: corev1.ServiceSpec{Type: "LoadBalancer", AllocateLoadBalancerNodePorts: ptr.To(false), Ports: []corev1.ServicePort{{}}}},
			list("count/services", "1", "services", "1", "services.loadbalancers", "1", "services.nodeports", "0")},
		{"claim", gr("persistentvolumeclaims"), &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To("fast"), Resources: corev1.VolumeResourceRequirements{Requests: list("storage", "1Gi")}}},
			list("count/persistentvolumeclaims", "1", "persistentvolumeclaims", "1", "requests.storage", "1Gi",
				"fast.storageclass.storage.k8s.io/persistentvolumeclaims", "1", "fast.storageclass.storage.k8s.io/requests.storage", "1Gi")},
		{"pod whose node is lost", gr("pods"), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			DeletionTimestamp: ptr.To(metav1.NewTime(now.Add(-31 * time.Second))), DeletionGracePeriodSeconds: ptr.To[int64](30)}}, list("count/pods", "1")},
		{"deployment", gr("deployments.apps"), nil, list("count/deployments.apps", "1")},
		{"configmap", gr("configmaps"), &corev1.ConfigMap{}, list("count/configmaps", "1", "configmaps", "1")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Usage(nil, tt.r, tt.obj, now); !equality.Semantic.DeepEqual(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestCountedBy(t *testing.T) {
	for name, want := range map[corev1.ResourceName]string{
		"count/widgets.example.com": "widgets.example.com", "count/pods": "pods", "pods": "pods", "limits.memory": "pods",
		"requests.cpu": "pods", "requests.hugepages-2Mi": "pods",
		"requests.example.com/gpu": "pods resourceclaims.resource.k8s.io", "requests.deviceclass.resource.kubernetes.io/gpu": "pods resourceclaims.resource.k8s.io",
		"requests.storage": "persistentvolumeclaims", "services.nodeports": "services",
		"fast.storageclass.storage.k8s.io/requests.storage": "persistentvolumeclaims", "secrets": "secrets",
		"gpu.deviceclass.resource.k8s.io/devices": "resourceclaims.resource.k8s.io",
	} {
		var got []string
		for _, r := range CountedBy(name) {
			got = append(got, r.String())
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("%s is used up by %s, want %s", name, got, want)
		}
	}
}
