package conformance

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// amounts are resources by name, with names and values in turn.
func amounts(list ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(list); i += 2 {
		out[corev1.ResourceName(list[i])] = resource.MustParse(list[i+1])
	}
	return out
}

// quota is a quota of everything; further amounts replace the usual ones.
func quota(name string, more ...string) *corev1.ResourceQuota {
	hard := amounts(
		"pods", "5", "services", "10", "services.nodeports", "1", "services.loadbalancers", "1", "replicationcontrollers", "10", "resourcequotas", "1",
		"cpu", "1", "memory", "500Mi", "configmaps", "10", "secrets", "10", "persistentvolumeclaims", "10", "requests.storage", "10Gi",
		"ephemeral-storage", "50Gi", "count/replicasets.apps", "5", "requests.example.com/dongle", "3",
		"gold.storageclass.storage.k8s.io/persistentvolumeclaims", "10", "gold.storageclass.storage.k8s.io/requests.storage", "10Gi",
	)
	for k, v := range amounts(more...) {
		hard[k] = v
	}
	return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}
}

func scoped(name string, scope corev1.ResourceQuotaScope, hard ...string) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: amounts(hard...), Scopes: []corev1.ResourceQuotaScope{scope}}}
}

// used waits until the quota's usage has the amounts, and its limits are those
// of the specification.
func (s *server) used(name string, want ...string) {
	s.Helper()
	q := &corev1.ResourceQuota{}
	s.until(fmt.Sprintf("quota %s counts %v", name, want), func() bool {
		s.ok(s.get(q, name))
		for k, v := range amounts(want...) {
			if got, ok := q.Status.Used[k]; !ok || got.Cmp(v) != 0 {
				return false
			}
		}
		return sameAmounts(q.Status.Hard, q.Spec.Hard) && len(q.Status.Used) == len(q.Spec.Hard)
	})
}

func sameAmounts(a, b corev1.ResourceList) bool {
	for k, v := range a {
		if w, ok := b[k]; !ok || v.Cmp(w) != 0 {
			return false
		}
	}
	return len(a) == len(b)
}

func service(name string, kind corev1.ServiceType) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: kind, Ports: []corev1.ServicePort{{Port: 80}}}}
}

// asking is a pod with requests and limits.
func asking(name string, requests, limits corev1.ResourceList) *corev1.Pod {
	p := pod(name, nil)
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
	return p
}

// over demands that the object exceeds the quota.
func (s *server) over(o client.Object, texts ...string) {
	s.Helper()
	err := s.try(o)
	if !apierrors.IsForbidden(err) {
		s.Errorf("refused with %v", err)
	}
	s.refused(err, append(texts, "exceeded quota: ", "requested: ", "used: ", "limited: ")...)
}

// capturesObject demands that the quota counts one object while it is there.
func (s *server) capturesObject(o client.Object, counted string, more ...string) {
	s.Helper()
	var before string
	if counted == "configmaps" {
		// Every namespace has the ConfigMap with the cluster's CA.
		s.until("the CA is there", func() bool { return s.get(&corev1.ConfigMap{}, "kube-root-ca.crt") == nil })
		before, more = "1", []string{counted, "2"}
	} else {
		before = "0"
	}
	s.create(quota("test", more...))
	s.used("test", "resourcequotas", "1", counted, before)
	s.create(o)
	s.used("test", counted, fmt.Sprint(before[0]-'0'+1))
	s.delete(o, background)
	s.used("test", counted, before)
}

// scopes demands which of two quotas of pods counts a pod.
func (s *server) scopes(counting, other string, p *corev1.Pod, used, free []string) {
	s.Helper()
	s.create(p)
	s.used(counting, used...)
	s.used(other, "pods", "0")
	s.delete(p, client.GracePeriodSeconds(0))
	s.used(counting, free...)
}

var quotas = entries{
	"should create a ResourceQuota and ensure its status is promptly calculated.": func(s *server) {
		s.create(quota("test"))
		s.used("test", "resourcequotas", "1")
	},
	"should create a ResourceQuota and capture the life of a service.": func(s *server) {
		s.create(quota("test"))
		s.used("test", "resourcequotas", "1")
		one, two := service("cluster", corev1.ServiceTypeClusterIP), service("node", corev1.ServiceTypeNodePort)
		s.create(one, two)
		s.over(service("lb", corev1.ServiceTypeLoadBalancer), "services.nodeports=1")
		s.used("test", "resourcequotas", "1", "services", "2", "services.nodeports", "1", "services.loadbalancers", "0")
		s.delete(one)
		s.delete(two)
		s.used("test", "resourcequotas", "1", "services", "0", "services.nodeports", "0")
	},
	"should create a ResourceQuota and capture the life of a secret.": func(s *server) {
		s.capturesObject(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "test"}, Data: map[string][]byte{"data-1": []byte("value")}}, "secrets", "secrets", "1")
	},
	"should create a ResourceQuota and capture the life of a configMap.": func(s *server) {
		s.capturesObject(configMap("test"), "configmaps")
	},
	"should create a ResourceQuota and capture the life of a replication controller.": func(s *server) {
		rc := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "test"}, Spec: corev1.ReplicationControllerSpec{
			Replicas: ptr.To[int32](0), Selector: map[string]string{"a": "b"},
			Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: pod("", nil).Spec},
		}}
		s.capturesObject(rc, "replicationcontrollers")
	},
	"should create a ResourceQuota and capture the life of a replica set.": func(s *server) {
		s.capturesObject(replicaSet("test", 0), "count/replicasets.apps")
	},
	"should create a ResourceQuota and capture the life of a pod.": func(s *server) {
		s.create(quota("test"))
		s.used("test", "resourcequotas", "1", "pods", "0")
		p := asking("test", amounts("cpu", "500m", "memory", "252Mi", "ephemeral-storage", "30Gi", "example.com/dongle", "2"), amounts("example.com/dongle", "2"))
		s.create(p)
		used := []string{"resourcequotas", "1", "pods", "1", "cpu", "500m", "memory", "252Mi", "ephemeral-storage", "30Gi", "requests.example.com/dongle", "2"}
		s.used("test", used...)
		s.over(asking("much-cpu", amounts("cpu", "600m", "memory", "100Mi", "ephemeral-storage", "1Gi"), nil), "requested: cpu=600m, used: cpu=500m, limited: cpu=1")
		s.over(asking("dongles", amounts("cpu", "500m", "memory", "100Mi", "ephemeral-storage", "1Gi", "example.com/dongle", "2"), amounts("example.com/dongle", "2")), "requests.example.com/dongle=2")
		s.refused(s.try(asking("silent", amounts("cpu", "100m"), nil)), "failed quota: test: must specify memory for: main")
		s.running(p)
		p.Spec.Containers[0].Resources.Requests = amounts("cpu", "100m", "memory", "100Mi", "ephemeral-storage", "10Gi")
		s.refused(s.api.Update(s.ctx, p), "pod updates may not change fields other than")
		s.used("test", used...)
		s.delete(p, client.GracePeriodSeconds(0))
		s.used("test", "resourcequotas", "1", "pods", "0", "cpu", "0", "memory", "0", "ephemeral-storage", "0", "requests.example.com/dongle", "0")
	},
	"should verify ResourceQuota with terminating scopes.": func(s *server) {
		hard := []string{"pods", "5", "requests.cpu", "1", "requests.memory", "500Mi", "limits.cpu", "2", "limits.memory", "1Gi"}
		none := []string{"pods", "0", "requests.cpu", "0", "requests.memory", "0", "limits.cpu", "0", "limits.memory", "0"}
		used := []string{"pods", "1", "requests.cpu", "500m", "requests.memory", "200Mi", "limits.cpu", "1", "limits.memory", "400Mi"}
		s.create(scoped("terminating", corev1.ResourceQuotaScopeTerminating, hard...), scoped("not-terminating", corev1.ResourceQuotaScopeNotTerminating, hard...))
		s.used("terminating", none...)
		s.used("not-terminating", none...)
		requests, limits := amounts("cpu", "500m", "memory", "200Mi"), amounts("cpu", "1", "memory", "400Mi")
		s.scopes("not-terminating", "terminating", asking("long", requests, limits), used, none)
		p := asking("short", requests, limits)
		p.Spec.ActiveDeadlineSeconds = ptr.To[int64](3600)
		s.scopes("terminating", "not-terminating", p, used, none)
	},
	"should verify ResourceQuota with best effort scope.": func(s *server) {
		s.create(scoped("best", corev1.ResourceQuotaScopeBestEffort, "pods", "5"), scoped("not-best", corev1.ResourceQuotaScopeNotBestEffort, "pods", "5"))
		s.used("best", "pods", "0")
		s.used("not-best", "pods", "0")
		s.scopes("best", "not-best", pod("best", nil), []string{"pods", "1"}, []string{"pods", "0"})
		burstable := asking("burstable", amounts("cpu", "500m", "memory", "200Mi"), amounts("cpu", "1", "memory", "400Mi"))
		s.scopes("not-best", "best", burstable, []string{"pods", "1"}, []string{"pods", "0"})
	},
	"should be able to update and delete ResourceQuota.": func(s *server) {
		q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "test"}, Spec: corev1.ResourceQuotaSpec{Hard: amounts("cpu", "1", "memory", "500Mi")}}
		s.create(q)
		read := &corev1.ResourceQuota{}
		s.ok(s.get(read, "test"))
		if !sameAmounts(read.Spec.Hard, amounts("cpu", "1", "memory", "500Mi")) {
			s.Errorf("created with %v", read.Spec.Hard)
		}
		// Without a revision, an update is of whatever there is.
		q.ResourceVersion, q.Spec.Hard = "", amounts("cpu", "2", "memory", "1Gi")
		s.ok(s.api.Update(s.ctx, q))
		s.ok(s.get(read, "test"))
		if !sameAmounts(q.Spec.Hard, amounts("cpu", "2", "memory", "1Gi")) || !sameAmounts(read.Spec.Hard, q.Spec.Hard) {
			s.Errorf("updated to %v, then %v", q.Spec.Hard, read.Spec.Hard)
		}
		s.delete(q)
		if err := s.get(read, "test"); !apierrors.IsNotFound(err) {
			s.Errorf("deleted: %v", err)
		}
	},
	"should manage the lifecycle of a ResourceQuota": func(s *server) {
		q := &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Name: "test", Labels: map[string]string{"of": s.ns}},
			Spec:       corev1.ResourceQuotaSpec{Hard: amounts("cpu", "500m", "memory", "500Mi")},
		}
		s.create(q)
		s.ok(s.get(q, "test"))
		var list corev1.ResourceQuotaList
		mine := client.MatchingLabels{"of": s.ns}
		s.list(&list, mine)
		if len(list.Items) != 1 {
			s.Errorf("%d quotas in all namespaces", len(list.Items))
		}
		s.ok(s.api.Patch(s.ctx, q, client.RawPatch(types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"patched":"true"}},"spec":{"hard":{"memory":"750Mi"}}}`))))
		if q.Labels["patched"] != "true" || !sameAmounts(q.Spec.Hard, amounts("cpu", "500m", "memory", "750Mi")) {
			s.Errorf("patched: %v %v", q.Labels, q.Spec.Hard)
		}
		s.ok(s.api.DeleteAllOf(s.ctx, &corev1.ResourceQuota{}, client.InNamespace(s.ns), mine))
		s.list(&list, mine)
		if len(list.Items) != 0 {
			s.Errorf("%d quotas are left", len(list.Items))
		}
	},
	"should apply changes to a resourcequota status": func(s *server) {
		hard := amounts("cpu", "500m", "memory", "500Mi")
		q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "test", Labels: map[string]string{"of": s.ns}}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}
		var list corev1.ResourceQuotaList
		s.list(&list, client.MatchingLabels{"of": s.ns})
		s.create(q)
		shows := func(want corev1.ResourceList) func(client.Object) bool {
			return func(o client.Object) bool { return sameAmounts(o.(*corev1.ResourceQuota).Status.Hard, want) }
		}
		seen := s.watch(&list, client.MatchingLabels{"of": s.ns}, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})
		seen.await(watch.Modified, shows(hard))
		// Limits in the status are those of the specification: others last until
		// the controller sees them.
		raised := amounts("cpu", "1", "memory", "1Gi")
		s.changeStatus(q, "test", func() { q.Status.Hard = raised })
		if !sameAmounts(q.Status.Hard, raised) || !sameAmounts(q.Spec.Hard, hard) {
			s.Errorf("updated: %v of %v", q.Status.Hard, q.Spec.Hard)
		}
		seen.await(watch.Modified, shows(raised))
		s.change(q, "test", func() { q.Spec.Hard = raised })
		seen.await(watch.Modified, shows(raised))
		patch := func(status string, want corev1.ResourceList) {
			s.Helper()
			s.ok(s.api.Status().Patch(s.ctx, q, client.RawPatch(types.StrategicMergePatchType, []byte(`{"status":{"hard":`+status+`}}`))))
			if !sameAmounts(q.Status.Hard, want) || !sameAmounts(q.Spec.Hard, raised) {
				s.Errorf("patched: %v of %v", q.Status.Hard, q.Spec.Hard)
			}
			seen.await(watch.Modified, shows(want))
		}
		patch(`{"cpu":"2","memory":"2Gi"}`, amounts("cpu", "2", "memory", "2Gi"))
		u, err := s.dynamic.Resource(corev1.SchemeGroupVersion.WithResource("resourcequotas")).Namespace(s.ns).Get(s.ctx, "test", metav1.GetOptions{}, "status")
		s.ok(err)
		if u.GetKind() != "ResourceQuota" || !slices.Contains([]any{"1", "2"}, field(u, "status", "hard", "cpu")) {
			s.Errorf("its status: %v", u.Object)
		}
		s.used("test", "cpu", "0", "memory", "0")
	},
}
