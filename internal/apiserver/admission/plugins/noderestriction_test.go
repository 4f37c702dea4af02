package plugins_test

import (
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/apiserver/admission"
	"skiff/internal/identity"
)

func TestNodeRestriction(t *testing.T) {
	own := pod(func(p *corev1.Pod) {
		p.Name, p.Spec.NodeName, p.Spec.InitContainers = "own", "n1", nil
		p.Spec.Containers[0].Image = "i"
		p.Spec.Volumes = []corev1.Volume{{Name: "t", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t", Audience: "vault"}}}}}}}
	})
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	e := start(t, account("x", "default"), own, node)
	user := &identity.User{Name: "system:node:n1", Groups: []string{identity.GroupNodes, identity.GroupAuthenticated}}

	mirror := func(change func(p *corev1.Pod)) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "m"}
			p.Spec.NodeName = "n1"
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: node.UID, Controller: ptr.To(true)}}
			if change != nil {
				change(p)
			}
		})
	}
	labelled := func(key string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{key: "v"}}}
	}
	token := func(change func(r *authenticationv1.TokenRequest)) *authenticationv1.TokenRequest {
		r := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault"},
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "own", UID: own.UID}}}
		change(r)
		return r
	}
	on := func(name, node string) *corev1.Pod {
		return pod(func(p *corev1.Pod) { p.Name, p.Spec.NodeName = name, node })
	}
	for _, tt := range []struct {
		name, resource string
		attrs          admission.Attributes
		want           string
	}{
		{"mirror pod", "pods", admission.Attributes{Object: mirror(nil)}, ""},
		{"ordinary pod", "pods", admission.Attributes{Object: on("p", "n1")}, `pods "p" is forbidden: pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods`},
		{"another's mirror pod", "pods", admission.Attributes{Object: mirror(func(p *corev1.Pod) { p.Spec.NodeName = "n2" })}, `pods "p" is forbidden: node "n1" can only create pods with spec.nodeName set to itself`},
		{"mirror pod without owner", "pods", admission.Attributes{Object: mirror(func(p *corev1.Pod) { p.OwnerReferences = nil })}, `pods "p" is forbidden: node "n1" can only create pods with an owner reference set to itself`},
		{"mirror pod of another life", "pods", admission.Attributes{Object: mirror(func(p *corev1.Pod) { p.OwnerReferences[0].UID = "z" })}, `pods "p" is forbidden: node n1 UID mismatch: expected z got ` + string(node.UID)},
		{"mirror pod with a config map", "pods", admission.Attributes{Object: mirror(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}}}
		})}, `pods "p" is forbidden: node "n1" can not create pods that reference configmaps`},
		{"delete own", "pods", admission.Attributes{Operation: admission.Delete, Name: "own", Namespace: "x", Old: on("own", "n1")}, ""},
		{"delete another's", "pods", admission.Attributes{Operation: admission.Delete, Name: "p", Namespace: "x", Old: on("p", "n2")}, `pods "p" is forbidden: node "n1" can only delete pods with spec.nodeName set to itself`},
		{"own status", "pods/status", admission.Attributes{Operation: admission.Update, Object: on("own", "n1"), Old: on("own", "n1")}, ""},
		{"another's status", "pods/status", admission.Attributes{Operation: admission.Update, Object: on("p", "n2"), Old: on("p", "n2")}, `pods "p" is forbidden: node "n1" can only update pod status for pods with spec.nodeName set to itself`},
		{"binding", "pods/binding", admission.Attributes{Object: &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p"}}}, `pods "p" is forbidden: unexpected pod subresource "binding", only 'status' and 'eviction' are allowed`},

		{"itself", "nodes", admission.Attributes{Object: labelled("kubernetes.io/hostname")}, ""},
		{"its labels", "nodes", admission.Attributes{Object: labelled("example.com/x")}, ""},
		{"kubelet's labels", "nodes", admission.Attributes{Object: labelled("kubelet.kubernetes.io/x")}, ""},
		{"administrators' labels", "nodes", admission.Attributes{Object: labelled("node-restriction.kubernetes.io/x")}, `nodes "n1" is forbidden: node "n1" is not allowed to set the following labels: node-restriction.kubernetes.io/x`},
		{"roles", "nodes", admission.Attributes{Operation: admission.Update, Object: labelled("node-role.kubernetes.io/x"), Old: labelled("a")}, `nodes "n1" is forbidden: is not allowed to modify labels: node-role.kubernetes.io/x`},
		{"taints", "nodes", admission.Attributes{Operation: admission.Update, Object: &corev1.Node{ObjectMeta: meta("n1"), Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "a"}}}}, Old: node}, `nodes "n1" is forbidden: node "n1" is not allowed to modify taints`},
		{"another", "nodes", admission.Attributes{Operation: admission.Delete, Name: "n2"}, `nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2"`},

		{"own lease", "leases.coordination.k8s.io", admission.Attributes{Object: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-node-lease", Name: "n1"}}}, ""},
		{"another's lease", "leases.coordination.k8s.io", admission.Attributes{Object: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-node-lease", Name: "n2"}}}, `leases.coordination.k8s.io "n2" is forbidden: can only access node lease with the same name as the requesting node`},
		{"lease elsewhere", "leases.coordination.k8s.io", admission.Attributes{Operation: admission.Update, Object: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "n1"}}}, `leases.coordination.k8s.io "n1" is forbidden: can only access leases in the "kube-node-lease" system namespace`},
		{"another's CSINode", "csinodes.storage.k8s.io", admission.Attributes{Object: &storagev1.CSINode{ObjectMeta: meta("n2")}}, `csinodes.storage.k8s.io "n2" is forbidden: can only access CSINode with the same name as the requesting node`},

		{"token", "serviceaccounts/token", admission.Attributes{Object: token(func(*authenticationv1.TokenRequest) {}), Namespace: "x", Name: "default"}, ""},
		{"unbound token", "serviceaccounts/token", admission.Attributes{Object: token(func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef = nil }), Namespace: "x", Name: "default"}, `serviceaccounts "default" is forbidden: node requested token not bound to a pod`},
		{"token without a life", "serviceaccounts/token", admission.Attributes{Object: token(func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef.UID = "" }), Namespace: "x", Name: "default"}, `serviceaccounts "default" is forbidden: node requested token with a pod binding without a uid`},
		{"token for others", "serviceaccounts/token", admission.Attributes{Object: token(func(r *authenticationv1.TokenRequest) { r.Spec.Audiences = []string{"bank"} }), Namespace: "x", Name: "default"}, `serviceaccounts "default" is forbidden: audience "bank" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience`},
		{"token of no pod", "serviceaccounts/token", admission.Attributes{Object: token(func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef.Name = "none" }), Namespace: "x", Name: "default"}, `pods "none" not found`},
	} {
		t.Run(tt.name, func(*testing.T) {
			tt.attrs.User = user
			e.wantError(tt.attrs, tt.resource, tt.want)
		})
	}
	if _, err := e.admit(admission.Attributes{Object: on("p", "n2")}, "pods"); err != nil {
		t.Errorf("somebody who is no node: %v", err)
	}
}
