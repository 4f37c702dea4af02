package apps

import (
	"context"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks/checkstest"
)

// TestWarnings: they come with what is new only.
func TestWarnings(t *testing.T) {
	const hides = `spec.template.spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply`
	const badName = "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]"
	twice := []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "A", Value: "2"}}
	for plural, onCreate := range map[string][]string{"deployments": {badName, hides}, "replicasets": {badName, hides}, "statefulsets": {hides}, "daemonsets": {hides}} {
		r := checkstest.Find(t, Resources(), plural)
		obj := checkstest.Parse[apis.Object](t, r, "metadata: {name: a.b, namespace: default}\nspec:"+template)
		var change func()
		switch o := obj.(type) {
		case *appsv1.Deployment:
			o.Spec.Template.Spec.Containers[0].Env = twice
			change = func() { o.Generation++ }
		case *appsv1.ReplicaSet:
			o.Spec.Template.Spec.Containers[0].Env = twice
			change = func() { o.Generation++ }
		case *appsv1.StatefulSet:
			o.Spec.Template.Spec.Containers[0].Env = twice
			change = func() { o.Generation++ }
		case *appsv1.DaemonSet:
			o.Spec.Template.Spec.Containers[0].Env = twice
			change = func() { setTemplateGeneration(o, 2) }
		}
		warnings := func(old apis.Object) []string { return r.Warnings(context.Background(), obj, old) }
		if got := warnings(nil); !slices.Equal(got, onCreate) {
			t.Errorf("%s: create warns %q", plural, got)
		}
		old := obj.DeepCopyObject().(apis.Object)
		if got := warnings(old); len(got) != 0 {
			t.Errorf("%s: update of nothing warns %q", plural, got)
		}
		change()
		if got := warnings(old); !slices.Equal(got, []string{hides}) {
			t.Errorf("%s: update warns %q", plural, got)
		}
	}
}

func TestStatefulSetNamesAndHistory(t *testing.T) {
	r := checkstest.Find(t, Resources(), "statefulsets")
	if r.ValidateName("a.b", false) == nil || r.ValidateName("a-b", false) != nil {
		t.Error("names of stateful sets are labels of host names")
	}
	s := checkstest.Parse[*appsv1.StatefulSet](t, r, "metadata: {name: web, namespace: default}\nspec:"+template+`
  volumeClaimTemplates: [{metadata: {name: d}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1500m}}}}]
`)
	s.Spec.RevisionHistoryLimit = ptr.To[int32](-1)
	checkstest.Errors(t, r.Validate(context.Background(), s))
	want := []string{
		`spec.volumeClaimTemplates[0].resources.requests[storage]: fractional byte value "1500m" is invalid, must be an integer`,
		"spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended",
	}
	if got := r.Warnings(context.Background(), s, nil); !slices.Equal(got, want) {
		t.Errorf("warns %q", got)
	}
	if got := r.Warnings(context.Background(), s, s); !slices.Equal(got, want) {
		t.Errorf("an update that changes nothing warns %q", got)
	}
}
