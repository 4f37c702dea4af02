package core

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

// What upstream answers to objects that are allowed but hardly meant.
func TestWarningsOfQuotasAndCertificates(t *testing.T) {
	quota := &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{
		"memory": resource.MustParse("10Gi"), "limits.memory": resource.MustParse("5Gi"), "requests.storage": resource.MustParse("1Gi"), "limits.storage": resource.MustParse("2Gi"),
	}}}
	want := []string{"ResourceQuota memory (10Gi) should be less than limits.memory (5Gi)"}
	if got := resourceQuotaWarnings(context.Background(), quota, nil); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got := resourceQuotaWarnings(context.Background(), quota, quota); got != nil {
		t.Errorf("of an update: %q", got)
	}
	secret := &corev1.Secret{Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": []byte("abc"), "tls.key": []byte("abc")}}
	want = []string{"tls: failed to find any PEM data in certificate input"}
	if got := secretWarnings(context.Background(), secret, nil); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	secret.Type = corev1.SecretTypeOpaque
	if got := secretWarnings(context.Background(), secret, nil); got != nil {
		t.Errorf("of no certificate: %q", got)
	}
}

func TestDataSourceOfNoKnownKind(t *testing.T) {
	for _, c := range []struct {
		group *string
		kind  string
		kept  bool
	}{
		{nil, "PersistentVolumeClaim", true},
		{ptr.To("snapshot.storage.k8s.io"), "VolumeSnapshot", true},
		{ptr.To("x"), "PersistentVolumeClaim", false},
		{nil, "Other", false},
	} {
		spec := corev1.PersistentVolumeClaimSpec{DataSource: &corev1.TypedLocalObjectReference{APIGroup: c.group, Kind: c.kind, Name: "n"}}
		if dropUnknownSource(&spec); (spec.DataSource != nil) != c.kept {
			t.Errorf("%s of %q: %v", c.kind, ptr.Deref(c.group, ""), spec.DataSource)
		}
	}
}

func TestSecretsOfServiceAccount(t *testing.T) {
	account := &corev1.ServiceAccount{Secrets: []corev1.ObjectReference{{Kind: "Secret", Namespace: "n", Name: "s"}}}
	if keepSecretNames(account); !slices.Equal(account.Secrets, []corev1.ObjectReference{{Name: "s"}}) {
		t.Errorf("got %+v", account.Secrets)
	}
}

// Totals decide, as upstream's do, not containers.
func TestQOSByTotals(t *testing.T) {
	list := func(cpu string) corev1.ResourceList {
		return corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse("1Gi")}
	}
	pod := func(requests, limits corev1.ResourceList) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}}}}
	}
	for what, c := range map[string]struct {
		pod  *corev1.Pod
		want corev1.PodQOSClass
	}{
		"equal":     {pod(list("1"), list("1")), corev1.PodQOSGuaranteed},
		"zero":      {pod(list("0"), list("1")), corev1.PodQOSBurstable},
		"less":      {pod(list("500m"), list("1")), corev1.PodQOSBurstable},
		"no limits": {pod(list("1"), nil), corev1.PodQOSBurstable},
		"nothing":   {pod(nil, nil), corev1.PodQOSBestEffort},
	} {
		if got := podQOS(c.pod); got != c.want {
			t.Errorf("%s: %s", what, got)
		}
	}
}

// Upstream checks the tolerations of an update twice.
func TestTolerationsOfUpdate(t *testing.T) {
	old := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: []corev1.Toleration{{Key: "a", Operator: "Exists"}}}}
	now := old.DeepCopy()
	now.Spec.Tolerations = append(now.Spec.Tolerations, corev1.Toleration{Key: "b c", Operator: "Exists"})
	said := 0
	for _, err := range validatePodUpdate(now, old) {
		if err.Field == "spec.tolerations[1].key" {
			said++
		}
	}
	if said != 2 {
		t.Errorf("said %d times", said)
	}
}
