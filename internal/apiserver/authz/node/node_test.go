package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/utils/ptr"

	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

func onNode(node, name string, change func(p *corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name, UID: "1"},
		Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: "app", Volumes: []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}},
			{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}},
			{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "ca"}}}}}}},
		}, Containers: []corev1.Container{{
			EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}}}},
		}}},
	}
	if change != nil {
		change(p)
	}
	return p
}

func authorizer() *Authorizer {
	z := New([]rbacv1.PolicyRule{{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{""}, Resources: []string{"services"}}})
	z.graph.setPod(nil, onNode("n1", "p1", nil))
	z.graph.setPod(nil, onNode("n2", "mirror", func(p *corev1.Pod) {
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: ""}
	}))
	z.graph.setVolume(nil, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "v"},
		Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{Namespace: "x", Name: "c"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				NodePublishSecretRef: &corev1.SecretReference{Namespace: "csi", Name: "mount"}}},
		},
	})
	z.graph.setAttachment(nil, &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n1"},
	})
	return z
}

func TestAuthorize(t *testing.T) {
	const unrelated = "no relationship found between node 'n2' and this object"
	selector := func(node string) fields.Requirements {
		return fields.Requirements{{Field: "spec.nodeName", Operator: selection.Equals, Value: node}}
	}
	z := authorizer()
	for _, tt := range []struct {
		attrs   authz.Attributes
		n1, n2  string // why not; "" means allowed
		n1Allow bool
	}{
		{attrs: authz.Attributes{Verb: "get", Resource: "secrets", Namespace: "x", Name: "s"}, n1Allow: true, n2: unrelated},
		{attrs: authz.Attributes{Verb: "watch", Resource: "secrets", Namespace: "x", Name: "env"}, n1Allow: true, n2: unrelated},
		{attrs: authz.Attributes{Verb: "get", Resource: "secrets", Namespace: "csi", Name: "mount"}, n1Allow: true, n2: unrelated},
		{attrs: authz.Attributes{Verb: "list", Resource: "secrets", Namespace: "x"}, n1: "No Object name found", n2: "No Object name found"},
		{attrs: authz.Attributes{Verb: "update", Resource: "secrets", Namespace: "x", Name: "s"}, n1: "can only read resources of this type", n2: "can only read resources of this type"},
		{attrs: authz.Attributes{Verb: "list", Resource: "secrets"}, n1: "can only read namespaced object of this type", n2: "can only read namespaced object of this type"},
		{attrs: authz.Attributes{Verb: "get", Resource: "configmaps", Namespace: "x", Name: "ca"}, n1Allow: true, n2: unrelated},
		{attrs: authz.Attributes{Verb: "get", Resource: "persistentvolumeclaims", Namespace: "x", Name: "c"}, n1Allow: true, n2: unrelated},
		{attrs: authz.Attributes{Verb: "list", Resource: "persistentvolumeclaims", Namespace: "x"}, n1: "can only get individual resources of this type", n2: "can only get individual resources of this type"},
		{attrs: authz.Attributes{Verb: "patch", Resource: "persistentvolumeclaims", Subresource: "status", Namespace: "x", Name: "c"}, n1Allow: true, n2: unrelated},
		{attrs: authz.Attributes{Verb: "get", Resource: "persistentvolumes", Name: "v"}, n1Allow: true, n2: unrelated},
		{attrs: authz.Attributes{Verb: "get", Group: "storage.k8s.io", Resource: "volumeattachments", Name: "a"}, n1Allow: true, n2: unrelated},
		{attrs: authz.Attributes{Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: "x", Name: "app"}, n1Allow: true, n2: unrelated},
		{attrs: authz.Attributes{Verb: "get", Resource: "nodes", Name: "n1"}, n1Allow: true, n2: "node 'n2' cannot read 'n1', only its own Node object"},
		{attrs: authz.Attributes{Verb: "list", Resource: "nodes"}, n1: "node 'n1' cannot read all nodes, only its own Node object", n2: "node 'n2' cannot read all nodes, only its own Node object"},
		{attrs: authz.Attributes{Verb: "delete", Resource: "nodes", Name: "n1"}},
		{attrs: authz.Attributes{Verb: "list", Resource: "pods", Namespace: "x", Name: "p1"}, n1Allow: true, n2: "can only list/watch pods with spec.nodeName field selector"},
		{attrs: authz.Attributes{Verb: "get", Resource: "pods", Namespace: "x", Name: "p1"}, n1Allow: true, n2: unrelated},
		{attrs: authz.Attributes{Verb: "watch", Resource: "pods", FieldSelector: selector("n1")}, n1Allow: true, n2: "can only list/watch pods with spec.nodeName field selector"},
		{attrs: authz.Attributes{Verb: "list", Resource: "pods"}, n1: "can only list/watch pods with spec.nodeName field selector", n2: "can only list/watch pods with spec.nodeName field selector"},
		{attrs: authz.Attributes{Verb: "get", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-node-lease", Name: "n1"}, n1Allow: true, n2: "can only access node lease with the same name as the requesting node"},
		{attrs: authz.Attributes{Verb: "get", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-system", Name: "n1"}, n1: `can only access leases in the "kube-node-lease" system namespace`, n2: `can only access leases in the "kube-node-lease" system namespace`},
		{attrs: authz.Attributes{Verb: "update", Group: "storage.k8s.io", Resource: "csinodes", Name: "n1"}, n1Allow: true, n2: "can only access CSINode with the same name as the requesting node"},
	} {
		for node, want := range map[string]string{"n1": tt.n1, "n2": tt.n2} {
			tt.attrs.User = &identity.User{Name: "system:node:" + node, Groups: []string{identity.GroupNodes}}
			d, reason, err := z.Authorize(t.Context(), &tt.attrs)
			allowed := node == "n1" && tt.n1Allow
			if (d == authz.Allow) != allowed || reason != want || err != nil {
				t.Errorf("%s %+v: %v, %q, %v; want %v, %q", node, tt.attrs, d, reason, err, allowed, want)
			}
		}
	}
}

func TestOtherUsers(t *testing.T) {
	z := authorizer()
	a := authz.Attributes{Verb: "list", Resource: "services"}
	for _, tt := range []struct {
		user   identity.User
		want   authz.Decision
		reason string
	}{
		{identity.User{Name: "system:node:n9", Groups: []string{identity.GroupNodes}}, authz.Allow, ""},
		{identity.User{Name: "system:node:n9"}, authz.NoOpinion, ""},
		{identity.User{Name: "n9", Groups: []string{identity.GroupNodes}}, authz.NoOpinion, ""},
		{identity.User{Name: "system:node:", Groups: []string{identity.GroupNodes}}, authz.NoOpinion, `unknown node for user "system:node:"`},
	} {
		a.User = &tt.user
		if d, reason, _ := z.Authorize(t.Context(), &a); d != tt.want || reason != tt.reason {
			t.Errorf("%s: %v, %q", tt.user.Name, d, reason)
		}
	}
}

func TestGraphForgets(t *testing.T) {
	z := authorizer()
	secret := thing{secrets, "x", "s"}
	first := onNode("n1", "p1", nil)
	second := onNode("n1", "p2", nil)
	z.graph.setPod(nil, second)
	z.graph.setPod(first, nil)
	if !z.graph.related("n1", secret) {
		t.Error("the second pod needs the secret still")
	}
	// A pod that gets an ephemeral container needs more.
	changed := second.DeepCopy()
	changed.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: "debug"}, Key: "k", Optional: ptr.To(true)}}}},
	}}}
	if !relationsChanged(second, changed) {
		t.Error("the change is not seen")
	}
	z.graph.setPod(second, changed)
	if !z.graph.related("n1", thing{secrets, "x", "debug"}) {
		t.Error("the new container's secret is not known")
	}
	z.graph.setPod(changed, nil)
	for _, t1 := range []thing{secret, {secrets, "x", "debug"}, {pods, "x", "p1"}} {
		if z.graph.related("n1", t1) {
			t.Errorf("%v is still related", t1)
		}
	}
	if n := len(z.graph.mu.nodes); n != 2 {
		t.Errorf("%d objects are left, want the mirror pod and the attachment", n)
	}
}
