package apps

import (
	"context"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks/checkstest"
)

// broken makes everything about a template wrong that a workload cares for.
func broken(t *corev1.PodTemplateSpec) {
	t.Labels = map[string]string{"app": "db"}
	t.Spec.Containers[0].Image = ""
	t.Spec.RestartPolicy = corev1.RestartPolicyNever
	t.Spec.ActiveDeadlineSeconds = ptr.To[int64](1)
}

const (
	negative    = ": Invalid value: must be greater than or equal to 0"
	mismatch    = "spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`"
	noImage     = "spec.template.spec.containers[0].image: Required value: "
	ends        = "spec.template.spec.restartPolicy: Unsupported value: supported values: \"Always\""
	hasDeadline = "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in "
)

// TestOrderOfErrors: clients see the causes in upstream's order.
func TestOrderOfErrors(t *testing.T) {
	for plural, c := range map[string]struct {
		breakIt func(obj apis.Object)
		want    []string
	}{
		"deployments": {func(obj apis.Object) {
			s := &obj.(*appsv1.Deployment).Spec
			broken(&s.Template)
			s.Replicas, s.MinReadySeconds, s.RevisionHistoryLimit, s.ProgressDeadlineSeconds = ptr.To[int32](-1), -1, ptr.To[int32](-1), ptr.To[int32](-2)
			s.Strategy = appsv1.DeploymentStrategy{Type: "Fast"}
		}, []string{
			"spec.replicas" + negative, mismatch, noImage, ends, hasDeadline + "ReplicaSet is not Supported",
			"spec.strategy: Unsupported value: supported values: \"Recreate\", \"RollingUpdate\"",
			"spec.minReadySeconds" + negative, "spec.revisionHistoryLimit" + negative, "spec.progressDeadlineSeconds" + negative,
			"spec.progressDeadlineSeconds: Invalid value: must be greater than minReadySeconds",
		}},
		"replicasets": {func(obj apis.Object) {
			s := &obj.(*appsv1.ReplicaSet).Spec
			broken(&s.Template)
			s.Replicas, s.MinReadySeconds = ptr.To[int32](-1), -1
		}, []string{"spec.replicas" + negative, "spec.minReadySeconds" + negative, mismatch, noImage, ends, hasDeadline + "ReplicaSet is not Supported"}},
		"daemonsets": {func(obj apis.Object) {
			s := &obj.(*appsv1.DaemonSet).Spec
			broken(&s.Template)
			s.MinReadySeconds, s.RevisionHistoryLimit, s.UpdateStrategy.Type = -1, ptr.To[int32](-1), "Never"
		}, []string{
			mismatch, noImage, ends, hasDeadline + "DaemonSet is not Supported", "spec.minReadySeconds" + negative,
			"spec.updateStrategy: Unsupported value: supported values: \"RollingUpdate\", \"OnDelete\"", "spec.revisionHistoryLimit" + negative,
		}},
		"statefulsets": {func(obj apis.Object) {
			s := &obj.(*appsv1.StatefulSet).Spec
			broken(&s.Template)
			s.PodManagementPolicy, s.UpdateStrategy.Type, s.PersistentVolumeClaimRetentionPolicy.WhenDeleted = "", "", "Burn"
			s.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "d"}}}
			s.Replicas, s.MinReadySeconds, s.Ordinals, s.ServiceName = ptr.To[int32](-1), -1, &appsv1.StatefulSetOrdinals{Start: -1}, "a.b"
		}, []string{
			"spec.podManagementPolicy: Required value: ", "spec.updateStrategy: Required value: ",
			"spec.persistentVolumeClaimRetentionPolicy.whenDeleted: Unsupported value: supported values: \"Retain\", \"Delete\"",
			"spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access mode is required",
			"spec.volumeClaimTemplates[0].spec.resources[storage]: Required value: ",
			"spec.replicas" + negative, "spec.minReadySeconds" + negative, "spec.ordinals.start" + negative,
			"spec.serviceName: Invalid value: must not contain dots",
			mismatch, noImage, ends, hasDeadline + "StatefulSet is not Supported",
		}},
	} {
		t.Run(plural, func(t *testing.T) {
			r := checkstest.Find(t, Resources(), plural)
			obj := checkstest.Parse[apis.Object](t, r, "metadata: {name: a, namespace: default}\nspec:"+template)
			c.breakIt(obj)
			checkstest.InOrder(t, r.Validate(context.Background(), obj), c.want...)
		})
	}
}

// TestBadSelectors: a selector that cannot be read is said to be invalid as a
// whole, too, and its template is not looked at; but by DaemonSets.
func TestBadSelectors(t *testing.T) {
	const badKey = "spec.selector.matchLabels: Invalid value: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
	const unreadable = "spec.selector: Invalid value: "
	bad := &metav1.LabelSelector{MatchLabels: map[string]string{"a b": "c"}}
	for plural, want := range map[string][]string{
		"deployments":  {badKey, unreadable + "invalid label selector"},
		"replicasets":  {badKey, unreadable + "invalid label selector"},
		"statefulsets": {badKey, unreadable, ends, hasDeadline + "StatefulSet is not Supported"},
		"daemonsets":   {badKey, noImage, ends, hasDeadline + "DaemonSet is not Supported"},
	} {
		t.Run(plural, func(t *testing.T) {
			r := checkstest.Find(t, Resources(), plural)
			obj := checkstest.Parse[apis.Object](t, r, "metadata: {name: a, namespace: default}\nspec:"+template)
			switch o := obj.(type) {
			case *appsv1.Deployment:
				o.Spec.Selector = bad
				broken(&o.Spec.Template)
			case *appsv1.ReplicaSet:
				o.Spec.Selector = bad
				broken(&o.Spec.Template)
			case *appsv1.StatefulSet:
				o.Spec.Selector = bad
				broken(&o.Spec.Template)
			case *appsv1.DaemonSet:
				o.Spec.Selector = bad
				broken(&o.Spec.Template)
			}
			checkstest.InOrder(t, r.Validate(context.Background(), obj), want...)
		})
	}
}

// TestHostNames: a StatefulSet's template may say what it likes of host names,
// since the controller gives its pods others.
func TestHostNames(t *testing.T) {
	for plural, want := range map[string]int{"statefulsets": 0, "daemonsets": 2} {
		r := checkstest.Find(t, Resources(), plural)
		obj := checkstest.Parse[apis.Object](t, r, "metadata: {name: a, namespace: default}\nspec:"+template)
		switch o := obj.(type) {
		case *appsv1.StatefulSet:
			o.Spec.Template.Spec.Hostname, o.Spec.Template.Spec.Subdomain = "A.B", "_"
		case *appsv1.DaemonSet:
			o.Spec.Template.Spec.Hostname, o.Spec.Template.Spec.Subdomain = "A", "_"
		}
		if errs := r.Validate(context.Background(), obj); len(errs) != want {
			t.Errorf("%s: %v", plural, errs)
		}
	}
}
