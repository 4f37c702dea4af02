package resourcequota

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apis"
	"skiff/internal/apis/quota"
	"skiff/internal/apiserver/admission"
)

func list(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func pod(requests, limits corev1.ResourceList) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "x"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits},
		}}},
	}
}

func newQuota(hard, used corev1.ResourceList, scopes ...corev1.ResourceQuotaScope) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "q", Namespace: "x"},
		Spec:       corev1.ResourceQuotaSpec{Hard: hard, Scopes: scopes},
		Status:     corev1.ResourceQuotaStatus{Hard: hard, Used: used},
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		name  string
		quota *corev1.ResourceQuota
		pod   *corev1.Pod
		used  corev1.ResourceList
		err   string
	}{
		{"fits", newQuota(list("pods", "2", "requests.cpu", "1"), list("pods", "1", "requests.cpu", "500m")),
			pod(list("cpu", "500m"), nil), list("pods", "2", "requests.cpu", "1"), ""},
		{"exceeds", newQuota(list("pods", "5", "requests.cpu", "1", "limits.memory", "1Gi"), list("pods", "1", "requests.cpu", "600m", "limits.memory", "512Mi")),
			pod(list("cpu", "500m"), list("memory", "1Gi")), nil,
			`pods "p" is forbidden: exceeded quota: q, requested: limits.memory=1Gi,requests.cpu=500m, used: limits.memory=512Mi,requests.cpu=600m, limited: limits.memory=1Gi,requests.cpu=1`},
		{"says nothing", newQuota(list("requests.cpu", "1", "limits.memory", "1Gi"), list("requests.cpu", "0", "limits.memory", "0")),
			pod(nil, nil), nil, `pods "p" is forbidden: failed quota: q: must specify limits.memory for: c; requests.cpu for: c`},
		{"unknown", newQuota(list("pods", "5"), nil), pod(nil, nil), nil,
			`pods "p" is forbidden: status unknown for quota: q, resources: pods`},
		{"of no concern", newQuota(list("services", "0"), list("services", "0")), pod(nil, nil), nil, ""},
		{"not counted yet", &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Hard: list("pods", "0")}}, pod(nil, nil), nil, ""},
		{"out of scope", newQuota(list("pods", "0"), list("pods", "0"), corev1.ResourceQuotaScopeBestEffort), pod(list("cpu", "1"), nil), nil, ""},
		{"in scope", newQuota(list("pods", "0"), list("pods", "0"), corev1.ResourceQuotaScopeNotBestEffort), pod(list("cpu", "1"), nil), nil,
			`pods "p" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0`},
		{"count", newQuota(list("count/pods", "1"), list("count/pods", "1")), pod(nil, nil), nil,
			`pods "p" is forbidden: exceeded quota: q, requested: count/pods=1, used: count/pods=1, limited: count/pods=1`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := &admission.Attributes{
				Operation: admission.Create, Name: "p", Object: tt.pod,
				Resource: &apis.Resource{Names: apis.Names{Resource: "pods", Kind: "Pod"}},
			}
			used, err := check(a, tt.quota, quota.Usage(nil, schema.GroupResource{Resource: "pods"}, tt.pod, time.Now()))
			text := ""
			if err != nil {
				text = err.Error()
			}
			if text != tt.err {
				t.Errorf("got  %s\nwant %s", text, tt.err)
			}
			if !equality.Semantic.DeepEqual(used, tt.used) {
				t.Errorf("used %v, want %v", used, tt.used)
			}
		})
	}
}

func TestLimitedResources(t *testing.T) {
	p := &Plugin{limited: []Limited{
		{Resource: "persistentvolumeclaims", MatchContains: []string{"gold.storageclass"}},
		{Resource: "pods", MatchScopes: []corev1.ScopedResourceSelectorRequirement{{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{"high"}}}},
	}}
	gold := corev1.ResourceList{"gold.storageclass.storage.k8s.io/requests.storage": resource.MustParse("1Gi")}
	covering := newQuota(gold, nil)
	prioritized := newQuota(list("pods", "5"), nil)
	prioritized.Spec.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: p.limited[1].MatchScopes}
	high := pod(nil, nil)
	high.Spec.PriorityClassName = "high"
	for _, tt := range []struct {
		name, resource string
		obj            runtime.Object
		delta          corev1.ResourceList
		quotas         []corev1.ResourceQuota
		want           string
	}{
		{"a limited class without quota", "persistentvolumeclaims", &corev1.PersistentVolumeClaim{}, gold, nil,
			`persistentvolumeclaims "p" is forbidden: insufficient quota to consume: gold.storageclass.storage.k8s.io/requests.storage`},
		{"with a quota", "persistentvolumeclaims", &corev1.PersistentVolumeClaim{}, gold, []corev1.ResourceQuota{*covering}, ""},
		{"another class", "persistentvolumeclaims", &corev1.PersistentVolumeClaim{}, list("requests.storage", "1Gi"), nil, ""},
		{"a limited priority without quota", "pods", high, list("pods", "1"), nil,
			`pods "p" is forbidden: insufficient quota to match these scopes: [{PriorityClass In [high]}]`},
		{"with a quota for it", "pods", high, list("pods", "1"), []corev1.ResourceQuota{*prioritized}, ""},
		{"with another quota", "pods", high, list("pods", "1"), []corev1.ResourceQuota{*newQuota(list("pods", "5"), nil)},
			`pods "p" is forbidden: insufficient quota to match these scopes: [{PriorityClass In [high]}]`},
		{"another priority", "pods", pod(nil, nil), list("pods", "1"), nil, ""},
	} {
		a := &admission.Attributes{Operation: admission.Create, Name: "p", Object: tt.obj, Resource: &apis.Resource{Names: apis.Names{Resource: tt.resource}}}
		text := ""
		if err := p.covered(a, tt.quotas, tt.delta); err != nil {
			text = err.Error()
		}
		if text != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.name, text, tt.want)
		}
	}
}

func TestGrown(t *testing.T) {
	if got := grown(list("a", "3", "b", "1", "c", "2"), list("a", "1", "b", "2", "c", "2")); !equality.Semantic.DeepEqual(got, list("a", "2")) {
		t.Errorf("growth %v", got)
	}
}
