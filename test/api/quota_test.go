package api

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// TestQuotaOfMovingObjects updates objects so that they come to count for
// another quota, which is charged in the same moment: nothing here runs
// controllers that would count anew.
func TestQuotaOfMovingObjects(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	const ns = "default"
	core := s.kube.CoreV1()
	if _, err := core.ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	quota := func(name string, of corev1.ResourceName, hard string, scope corev1.ScopedResourceSelectorRequirement) {
		t.Helper()
		limits := corev1.ResourceList{of: resource.MustParse(hard)}
		q, err := core.ResourceQuotas(ns).Create(ctx, &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.ResourceQuotaSpec{Hard: limits, ScopeSelector: &corev1.ScopeSelector{
				MatchExpressions: []corev1.ScopedResourceSelectorRequirement{scope},
			}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		q.Status = corev1.ResourceQuotaStatus{Hard: limits, Used: corev1.ResourceList{of: resource.MustParse("0")}}
		if _, err := core.ResourceQuotas(ns).UpdateStatus(ctx, q, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	used := func(name string, of corev1.ResourceName, want int64) {
		t.Helper()
		q, err := core.ResourceQuotas(ns).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := q.Status.Used[of]; got.Value() != want {
			t.Errorf("%s has %d %s used, want %d", name, got.Value(), of, want)
		}
	}
	refused := func(err error, want string) {
		t.Helper()
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}

	quota("terminating", "pods", "1", corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopeTerminating, Operator: corev1.ScopeSelectorOpExists})
	quota("lasting", "pods", "5", corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopeNotTerminating, Operator: corev1.ScopeSelectorOpExists})
	pod := func(name string) *corev1.Pod {
		t.Helper()
		p, err := core.Pods(ns).Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p.Spec.ActiveDeadlineSeconds = ptr.To[int64](60)
		return p
	}
	first, second := pod("first"), pod("second")
	used("lasting", "pods", 2)
	if _, err := core.Pods(ns).Update(ctx, first, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	used("terminating", "pods", 1)
	_, err := core.Pods(ns).Update(ctx, second, metav1.UpdateOptions{})
	refused(err, `pods "second" is forbidden: exceeded quota: terminating, requested: pods=1, used: pods=1, limited: pods=1`)

	class := func(name string) corev1.ScopedResourceSelectorRequirement {
		return corev1.ScopedResourceSelectorRequirement{
			ScopeName: corev1.ResourceQuotaScopeVolumeAttributesClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{name},
		}
	}
	const claims = corev1.ResourcePersistentVolumeClaims
	for _, name := range []string{"gold", "silver", "bronze"} {
		quota(name, claims, "0", class(name))
	}
	claim, err := core.PersistentVolumeClaims(ns).Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "claim"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// What drivers say has happened counts, even if it is too much.
	claim.Status.Phase = corev1.ClaimBound
	claim.Status.CurrentVolumeAttributesClassName = ptr.To("gold")
	claim.Status.ModifyVolumeStatus = &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: "silver", Status: corev1.PersistentVolumeClaimModifyVolumeInProgress}
	if claim, err = core.PersistentVolumeClaims(ns).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	used("gold", claims, 1)
	used("silver", claims, 1)
	claim.Spec.VolumeAttributesClassName = ptr.To("bronze")
	_, err = core.PersistentVolumeClaims(ns).Update(ctx, claim, metav1.UpdateOptions{})
	refused(err, `persistentvolumeclaims "claim" is forbidden: exceeded quota: bronze, requested: persistentvolumeclaims=1, used: persistentvolumeclaims=0, limited: persistentvolumeclaims=0`)
}
