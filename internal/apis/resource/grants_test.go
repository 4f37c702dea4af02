package resource_test

import (
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

// refused demands that err is a refusal with the causes, each as "field: part
// of its message".
func refused(t *testing.T, err error, causes ...string) {
	t.Helper()
	if !apierrors.IsInvalid(err) {
		t.Errorf("got %v, want an invalid object", err)
		return
	}
	got := err.(apierrors.APIStatus).Status().Details.Causes
	if len(got) != len(causes) {
		t.Errorf("got %d causes: %v", len(got), err)
		return
	}
	for i, want := range causes {
		at, text, _ := strings.Cut(want, ": ")
		if got[i].Field != at || !strings.Contains(got[i].Message, text) {
			t.Errorf("cause %d is %s: %s\nwant %s: …%s", i, got[i].Field, got[i].Message, at, text)
		}
	}
}

func create(t *testing.T, tc *testcluster.Cluster, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := tc.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAdminAccess(t *testing.T) {
	tc := testcluster.Start(t)
	create(t, tc, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "admin", Labels: map[string]string{"resource.kubernetes.io/admin-access": "true"}}})
	spec := resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
		{Name: "a", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "c"}},
		{Name: "b", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "c", AdminAccess: ptr.To(true)}},
	}}}
	const needed = "admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace"
	for _, namespace := range []string{"default", "admin"} {
		meta := metav1.ObjectMeta{Name: "x", Namespace: namespace}
		for _, o := range []client.Object{
			&resourcev1.ResourceClaim{ObjectMeta: meta, Spec: spec},
			&resourcev1.ResourceClaimTemplate{ObjectMeta: meta, Spec: resourcev1.ResourceClaimTemplateSpec{Spec: spec}},
		} {
			err := tc.Client.Create(t.Context(), o)
			if namespace == "default" {
				refused(t, err, "spec.devices.requests[1].adminAccess: "+needed)
			} else if err != nil {
				t.Error(err)
			}
		}
	}
	plain := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "plain", Namespace: "default"}, Spec: spec}
	plain.Spec.Devices.Requests = spec.Devices.Requests[:1]
	create(t, tc, plain)
	plain.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		{Request: "a", Driver: "d", Pool: "p", Device: "x", AdminAccess: ptr.To(true)},
	}}}
	refused(t, tc.Client.Status().Update(t.Context(), plain), "status.allocation.devices.results[0].adminAccess: "+needed)
}

func TestStatusIsWrittenInParts(t *testing.T) {
	tc := testcluster.Start(t)
	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "default"}}
	claim.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "a", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "c"}}}
	rule := func(resource string, names []string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{"resource.k8s.io"}, Resources: []string{resource}, ResourceNames: names, Verbs: verbs}
	}
	create(t, tc, claim,
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "status"}, Rules: []rbacv1.PolicyRule{rule("resourceclaims/status", nil, "update", "patch")}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "bind"}, Rules: []rbacv1.PolicyRule{rule("resourceclaims/binding", nil, "update")}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "driver"}, Rules: []rbacv1.PolicyRule{
			rule("resourceclaims/driver", []string{"d"}, "associated-node:update"), rule("resourceclaims/driver", []string{"e"}, "arbitrary-node:update"),
		}},
	)
	bind := func(role string, users ...string) *rbacv1.ClusterRoleBinding {
		b := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: role}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}}
		for _, u := range users {
			b.Subjects = append(b.Subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: "User", Name: u})
		}
		return b
	}
	const driver = "system:serviceaccount:default:driver"
	create(t, tc, bind("status", "scheduler", driver), bind("bind", "scheduler"), bind("driver", driver))
	user := func(name string) *identity.User {
		return &identity.User{Name: name, Groups: []string{identity.GroupAuthenticated}}
	}
	asked := func(verb, subresource, name string) authorizationv1.ResourceAttributes {
		return authorizationv1.ResourceAttributes{Verb: verb, Group: "resource.k8s.io", Resource: "resourceclaims", Subresource: subresource, Namespace: "default", Name: name}
	}
	tc.Granted(t, user("scheduler"), asked("update", "binding", ""))
	tc.Granted(t, user("scheduler"), asked("patch", "status", "x"))
	tc.Granted(t, user(driver), asked("patch", "status", "x"))
	tc.Granted(t, user(driver), asked("arbitrary-node:update", "driver", "e"))
	as := func(name, node string) client.Client {
		u := user(name)
		if node != "" {
			u.Extra = map[string][]string{"authentication.kubernetes.io/node-name": {node}}
		}
		return tc.Set(u).Client
	}

	claim.Status.Allocation = &resourcev1.AllocationResult{
		Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
			{Request: "a", Driver: "d", Pool: "p", Device: "x"}, {Request: "a", Driver: "e", Pool: "p", Device: "x"},
		}},
		NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"n1"}},
		}}}},
	}
	const mayNotBind = `status: changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="update" permission: resourceclaims.resource.k8s.io is forbidden: User "` + driver + `" cannot update resource "resourceclaims/binding" in API group "resource.k8s.io" at the cluster scope`
	refused(t, as(driver, "n1").Status().Update(t.Context(), claim.DeepCopy()), mayNotBind)
	if err := as("scheduler", "").Status().Update(t.Context(), claim); err != nil {
		t.Fatal(err)
	}

	report := func(driver string) *resourcev1.ResourceClaim {
		c := claim.DeepCopy()
		c.Status.Devices = append(c.Status.Devices, resourcev1.AllocatedDeviceStatus{Driver: driver, Pool: "p", Device: "x"})
		return c
	}
	refused(t, as("scheduler", "").Status().Update(t.Context(), report("d")),
		`status: changing status.devices requires resource="resourceclaims/driver", verb="[arbitrary-node:update]" permission: resourceclaims.resource.k8s.io "d" is forbidden: User "scheduler" cannot arbitrary-node:update resource "resourceclaims/driver" in API group "resource.k8s.io" in the namespace "default"`)
	refused(t, as(driver, "n2").Status().Update(t.Context(), report("d")), `status: verb="[arbitrary-node:update]" permission`)
	refused(t, as(driver, "n1").Status().Patch(t.Context(), report("d"), client.MergeFrom(claim)),
		`status: verb="[associated-node:patch arbitrary-node:patch]" permission: resourceclaims.resource.k8s.io "d" is forbidden: User "`+driver+`" cannot associated-node:patch`)
	mine := report("d")
	if err := as(driver, "n1").Status().Update(t.Context(), mine); err != nil {
		t.Fatal(err)
	}
	claim = mine
	if err := as(driver, "n2").Status().Update(t.Context(), report("e")); err != nil {
		t.Errorf("a driver that may report from anywhere: %v", err)
	}
	// With the allocation the reports on it go.
	free := &resourcev1.ResourceClaim{}
	if err := tc.Client.Get(t.Context(), client.ObjectKeyFromObject(claim), free); err != nil || len(free.Status.Devices) != 2 {
		t.Fatalf("%d reports, %v", len(free.Status.Devices), err)
	}
	free.Status.Allocation, free.Status.Devices = nil, nil
	if err := as("scheduler", "").Status().Update(t.Context(), free); err != nil {
		t.Errorf("giving devices back: %v", err)
	}
}
