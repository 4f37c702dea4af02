package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

func aClaim(change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes:               []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"},
		Resources:                 corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}},
		VolumeAttributesClassName: ptr.To("a"),
	}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
	change(c)
	return c
}

// What upstream answers to changes of claims.
func TestClaimCauses(t *testing.T) {
	class := func(spec, status *string) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) {
			c.Spec.VolumeAttributesClassName, c.Status.CurrentVolumeAttributesClassName = spec, status
		}
	}
	a, none := ptr.To("a"), ptr.To("")
	for name, c := range map[string]struct {
		was, now func(*corev1.PersistentVolumeClaim)
		want     []string
	}{
		"no class":            {class(a, a), class(nil, a), []string{"spec.volumeAttributesClassName: Forbidden: update to nil is forbidden when status.currentVolumeAttributesClassName is not nil"}},
		"empty class":         {class(a, a), class(none, a), []string{"spec.volumeAttributesClassName: Forbidden: update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil"}},
		"class not yet there": {class(a, nil), class(nil, nil), nil},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, validateClaimUpdate(t.Context(), aClaim(c.now), aClaim(c.was)), c.want...)
		})
	}

	const states = `supported values: "ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizeInProgress", "NodeResizeInfeasible", "NodeResizePending"`
	for name, c := range map[string]struct {
		status corev1.PersistentVolumeClaimStatus
		want   []string
	}{
		"state": {corev1.PersistentVolumeClaimStatus{AllocatedResourceStatuses: map[corev1.ResourceName]corev1.ClaimResourceStatus{"storage": "x"}},
			[]string{`status.allocatedResourceStatuses: Unsupported value: "storage": ` + states}},
		"resource": {corev1.PersistentVolumeClaimStatus{AllocatedResourceStatuses: map[corev1.ResourceName]corev1.ClaimResourceStatus{"x": "NodeResizePending"}},
			[]string{`status.allocatedResourceStatuses: Unsupported value: "x": supported values: "storage"`}},
		"amounts": {corev1.PersistentVolumeClaimStatus{AllocatedResources: corev1.ResourceList{"x": resource.MustParse("-1"), "storage": resource.MustParse("-1"), "": resource.MustParse("1")}},
			[]string{
				`status.allocatedResources: Invalid value: "": name part must be non-empty`,
				`status.allocatedResources: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
				"status.allocatedResources[storage]: Invalid value: -1: must be a valid resource quantity",
				`status.allocatedResources: Unsupported value: "x": supported values: "storage"`,
			}},
	} {
		claim := aClaim(func(claim *corev1.PersistentVolumeClaim) { claim.Status = c.status })
		t.Run(name, func(t *testing.T) { check(t, validateClaimStatus(t.Context(), claim, claim), c.want...) })
	}
}

// A source in another namespace is dropped, but a claim that has a source is
// not made to be without.
func TestForeignSource(t *testing.T) {
	ref := func(namespace string) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) {
			c.Spec.DataSourceRef = &corev1.TypedObjectReference{Kind: "PersistentVolumeClaim", Name: "n", Namespace: &namespace}
		}
	}
	r := persistentVolumeClaims()
	claim := aClaim(ref("other"))
	if r.PrepareCreate(t.Context(), claim); claim.Spec.DataSourceRef != nil || claim.Spec.DataSource != nil {
		t.Errorf("created with %+v", claim.Spec)
	}
	claim = aClaim(ref("other"))
	if r.PrepareUpdate(t.Context(), claim, aClaim(ref(""))); claim.Spec.DataSourceRef == nil {
		t.Error("an update takes it away")
	}
}
