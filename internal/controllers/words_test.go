package controllers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controllertest"
)

// TestEventsInUpstreamsWords has something of each kind happen, and compares
// what is said of it: tools match on reasons, and people search for messages.
func TestEventsInUpstreamsWords(t *testing.T) {
	c := start(t)
	ctx := context.Background()
	labels := func(app string) map[string]string { return map[string]string{"app": app} }
	selector := func(app string) *metav1.LabelSelector { return &metav1.LabelSelector{MatchLabels: labels(app)} }
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }
	template := func(app string) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels(app)}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "i"}}, AutomountServiceAccountToken: ptr.To(false),
		}}
	}
	job := template("job")
	job.Spec.RestartPolicy = corev1.RestartPolicyNever
	claim := func(name string, class *string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: meta(name), Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: class,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}},
		}}
	}
	one := intstr.FromInt32(1)
	c.Eventually("the ServiceAccount that pods have", &corev1.ServiceAccountList{}, func() bool {
		return c.Client.Get(ctx, client.ObjectKey{Namespace: "default", Name: "default"}, &corev1.ServiceAccount{}) == nil
	})
	c.Create(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}},
		&appsv1.Deployment{ObjectMeta: meta("deployment"), Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](2), Selector: selector("deployment"), Template: template("deployment")}},
		&appsv1.ReplicaSet{ObjectMeta: meta("replicaset"), Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](1), Selector: selector("replicaset"), Template: template("replicaset")}},
		&appsv1.StatefulSet{ObjectMeta: meta("statefulset"), Spec: appsv1.StatefulSetSpec{Selector: selector("statefulset"), Template: template("statefulset"),
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: claim("", ptr.To("")).Spec}}}},
		&appsv1.DaemonSet{ObjectMeta: meta("daemonset"), Spec: appsv1.DaemonSetSpec{Selector: selector("daemonset"), Template: template("daemonset")}},
		&batchv1.Job{ObjectMeta: meta("job"), Spec: batchv1.JobSpec{Template: job, Suspend: ptr.To(true)}},
		&policyv1.PodDisruptionBudget{ObjectMeta: meta("budget"), Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: selector("nobody")}},
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "driver"}, Provisioner: "csi.example.com"},
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "later"}, Provisioner: "csi.example.com", VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)},
		claim("static", ptr.To("")), claim("classless", ptr.To("missing")), claim("provisioned", ptr.To("driver")), claim("consumer", ptr.To("later")),
	)
	fail(t, c, "statefulset-0")
	for _, test := range []struct{ kind, name, source, reason, message string }{
		{"Node", "node", "node-controller", "RegisteredNode", "Node node event: Registered Node node in Controller"},
		{"Deployment", "deployment", "deployment-controller", "ScalingReplicaSet", "Scaled up replica set deployment-* from 0 to 2"},
		{"ReplicaSet", "deployment-*", "replicaset-controller", "SuccessfulCreate", "Created pod: deployment-*"},
		{"ReplicaSet", "replicaset", "replicaset-controller", "SuccessfulCreate", "Created pod: replicaset-*"},
		{"StatefulSet", "statefulset", "statefulset-controller", "SuccessfulCreate", "create Claim data-statefulset-0 Pod statefulset-0 in StatefulSet statefulset success"},
		{"StatefulSet", "statefulset", "statefulset-controller", "SuccessfulCreate", "create Pod statefulset-0 in StatefulSet statefulset successful"},
		{"StatefulSet", "statefulset", "statefulset-controller", "RecreatingFailedPod", "StatefulSet default/statefulset is recreating failed Pod statefulset-0"},
		{"StatefulSet", "statefulset", "statefulset-controller", "SuccessfulDelete", "delete Pod statefulset-0 in StatefulSet statefulset successful"},
		{"DaemonSet", "daemonset", "daemonset-controller", "SuccessfulCreate", "Created pod: daemonset-*"},
		{"Job", "job", "job-controller", "Suspended", "Job suspended"},
		{"PodDisruptionBudget", "budget", "controllermanager", "NoPods", "No matching pods found"},
		{"PersistentVolumeClaim", "static", "persistentvolume-controller", "FailedBinding", "no persistent volumes available for this claim and no storage class is set"},
		{"PersistentVolumeClaim", "classless", "persistentvolume-controller", "ProvisioningFailed", `storageclass.storage.k8s.io "missing" not found`},
		{"PersistentVolumeClaim", "provisioned", "persistentvolume-controller", "ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner 'csi.example.com' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."},
		{"PersistentVolumeClaim", "consumer", "persistentvolume-controller", "WaitForFirstConsumer", "waiting for first consumer to be created before binding"},
	} {
		c.Eventually(fmt.Sprint(test), &corev1.EventList{}, func() bool {
			var list corev1.EventList
			if err := c.Client.List(ctx, &list); err != nil {
				t.Fatal(err)
			}
			for _, e := range list.Items {
				if e.InvolvedObject.Kind != test.kind || !like(e.InvolvedObject.Name, test.name) {
					continue
				}
				if e.Reason == test.reason && e.Source.Component == test.source && like(e.Message, test.message) {
					return true
				}
			}
			return false
		})
	}
}

// like compares with a pattern that has at most one star.
func like(text, pattern string) bool {
	before, after, star := strings.Cut(pattern, "*")
	return text == pattern || star && len(text) >= len(pattern) && strings.HasPrefix(text, before) && strings.HasSuffix(text, after)
}

// fail waits for a pod and reports it as failed.
func fail(t *testing.T, c *controllertest.Cluster, name string) {
	t.Helper()
	p := &corev1.Pod{}
	c.Eventually(name, &corev1.PodList{}, func() bool {
		return c.Client.Get(context.Background(), client.ObjectKey{Namespace: "default", Name: name}, p) == nil
	})
	p.Status.Phase = corev1.PodFailed
	if err := c.Client.Status().Update(context.Background(), p); err != nil {
		t.Fatal(err)
	}
}
