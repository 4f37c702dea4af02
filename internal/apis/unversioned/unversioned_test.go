package unversioned

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// The texts are upstream's.
func TestErrors(t *testing.T) {
	at := field.NewPath("at")
	for _, c := range []struct {
		value any
		text  string
	}{
		{corev1.PodResourceClaim{Name: "x"}, `at: Invalid value: {"Name":"x","ResourceClaimName":null,"ResourceClaimTemplateName":null}: no`},
		{&corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "k", Operator: "In", Values: []string{"v"}}}}}}},
			`at: Invalid value: {"Required":{"NodeSelectorTerms":[{"MatchExpressions":[{"Key":"k","Operator":"In","Values":["v"]}],"MatchFields":null}]}}: no`},
		{(*corev1.SecurityContext)(nil), `at: Invalid value: null: no`},
		{[]corev1.HostAlias{{IP: "::1"}}, `at: Invalid value: [{"IP":"::1","Hostnames":null}]: no`},
		{map[string]corev1.LocalObjectReference{"b": {Name: "1"}, "a": {}}, `at: Invalid value: {"a":{"Name":""},"b":{"Name":"1"}}: no`},
		{corev1.Toleration{Key: "<k>", TolerationSeconds: ptr.To(int64(5))}, `at: Invalid value: {"Key":"\u003ck\u003e","Operator":"","Value":"","Effect":"","TolerationSeconds":5}: no`},
		{[]metav1.OwnerReference{{Kind: "Pod"}}, `at: Invalid value: [{"apiVersion":"","kind":"Pod","name":"","uid":""}]: no`},
		{"text", `at: Invalid value: "text": no`},
	} {
		if got := Errors(field.ErrorList{field.Invalid(at, c.value, "no")})[0].Error(); got != c.text {
			t.Errorf("got  %s\nwant %s", got, c.text)
		}
	}
}

func TestDiff(t *testing.T) {
	old := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
		Spec:       corev1.PodSpec{HostNetwork: true, SecurityContext: &corev1.PodSecurityContext{RunAsUser: ptr.To(int64(1))}},
	}
	now := *old.DeepCopy()
	now.Labels["a"], now.Spec.HostNetwork, now.Spec.SecurityContext.RunAsUser = "c", false, nil
	const want = `@@ -1,6 +1,6 @@
 {
  "labels": {
-  "a": "b"
+  "a": "c"
  },
  "Spec": {
   "Volumes": null,
@@ -16,14 +16,14 @@
   "AutomountServiceAccountToken": null,
   "NodeName": "",
   "SecurityContext": {
-   "HostNetwork": true,
+   "HostNetwork": false,
    "HostPID": false,
    "HostIPC": false,
    "ShareProcessNamespace": null,
    "HostUsers": null,
    "SELinuxOptions": null,
    "WindowsOptions": null,
-   "RunAsUser": 1,
+   "RunAsUser": null,
    "RunAsGroup": null,
    "RunAsNonRoot": null,
    "SupplementalGroups": null,
`
	if got := Diff(old, now); got != want {
		t.Errorf("got\n%s", got)
	}
}
