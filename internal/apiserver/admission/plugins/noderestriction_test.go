package plugins_test

import (
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
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
	other := pod(func(p *corev1.Pod) {
		p.Name, p.Spec.NodeName, p.Spec.InitContainers = "other", "n2", nil
		p.Spec.Containers[0].Image = "i"
	})
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	e := start(t, account("x", "default"), own, other, node)
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
	changed := func(change func(p *corev1.Pod)) *corev1.Pod {
		p := on("own", "n1")
		change(p)
		return p
	}
	volume := func(v corev1.VolumeSource) *corev1.Pod {
		return mirror(func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: v}} })
	}
	claim := func(change func(c *corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "c"}}
		change(c)
		return c
	}
	slice := func(node *string) *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{ObjectMeta: meta("s"), Spec: resourcev1.ResourceSliceSpec{NodeName: node}}
	}
	eviction := func(name string) *policyv1.Eviction {
		return &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name}}
	}
	withNode := func(change func(n *corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: meta("n1")}
		change(n)
		return n
	}
	const forbidden = `pods "p" is forbidden: `
	for _, tt := range []struct {
		name, resource string
		attrs          admission.Attributes
		want           string
	}{
		{"mirror pod", "pods", admission.Attributes{Object: mirror(nil)}, ""},
		{"ordinary pod", "pods", admission.Attributes{Object: on("p", "n1")}, forbidden + `pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods`},
		{"another's mirror pod", "pods", admission.Attributes{Object: mirror(func(p *corev1.Pod) { p.Spec.NodeName = "n2" })}, forbidden + `node "n1" can only create pods with spec.nodeName set to itself`},
		{"mirror pod without owner", "pods", admission.Attributes{Object: mirror(func(p *corev1.Pod) { p.OwnerReferences = nil })}, forbidden + `node "n1" can only create pods with an owner reference set to itself`},
		{"mirror pod of two", "pods", admission.Attributes{Object: mirror(func(p *corev1.Pod) { p.OwnerReferences = append(p.OwnerReferences, p.OwnerReferences[0]) })}, forbidden + `node "n1" can only create pods with a single owner reference set to itself`},
		{"mirror pod of another node", "pods", admission.Attributes{Object: mirror(func(p *corev1.Pod) { p.OwnerReferences[0].Name = "n2" })}, forbidden + `node "n1" can only create pods with an owner reference set to itself`},
		{"mirror pod of another kind", "pods", admission.Attributes{Object: mirror(func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "Pod" })}, forbidden + `node "n1" can only create pods with an owner reference set to itself`},
		{"mirror pod without a controller", "pods", admission.Attributes{Object: mirror(func(p *corev1.Pod) { p.OwnerReferences[0].Controller = nil })}, forbidden + `node "n1" can only create pods with a controller owner reference set to itself`},
		{"mirror pod that holds up its owner", "pods", admission.Attributes{Object: mirror(func(p *corev1.Pod) { p.OwnerReferences[0].BlockOwnerDeletion = ptr.To(true) })}, forbidden + `node "n1" must not set blockOwnerDeletion on an owner reference`},
		{"mirror pod of another life", "pods", admission.Attributes{Object: mirror(func(p *corev1.Pod) { p.OwnerReferences[0].UID = "z" })}, forbidden + `node n1 UID mismatch: expected z got ` + string(node.UID)},
		{"mirror pod with a config map", "pods", admission.Attributes{Object: volume(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}})}, forbidden + `node "n1" can not create pods that reference configmaps`},
		{"mirror pod with a claim", "pods", admission.Attributes{Object: volume(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}})}, forbidden + `node "n1" can not create pods that reference persistentvolumeclaims`},
		{"mirror pod with trust bundles", "pods", admission.Attributes{Object: volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{}}}}})}, forbidden + `node "n1" can not create pods that reference clustertrustbundles`},
		{"mirror pod with devices", "pods", admission.Attributes{Object: mirror(func(p *corev1.Pod) { p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "d"}} })}, forbidden + `node "n1" can not create pods that reference resourceclaims`},
		{"update of a pod", "pods", admission.Attributes{Operation: admission.Update, Object: on("p", "n1"), Old: on("p", "n1")}, forbidden + `unexpected operation "UPDATE", node "n1" can only create and delete mirror pods`},
		{"delete own", "pods", admission.Attributes{Operation: admission.Delete, Name: "own", Namespace: "x", Old: on("own", "n1")}, ""},
		{"delete another's", "pods", admission.Attributes{Operation: admission.Delete, Name: "p", Namespace: "x", Old: on("p", "n2")}, forbidden + `node "n1" can only delete pods with spec.nodeName set to itself`},
		{"own status", "pods/status", admission.Attributes{Operation: admission.Update, Object: on("own", "n1"), Old: on("own", "n1")}, ""},
		{"creation of a status", "pods/status", admission.Attributes{Object: on("p", "n1")}, forbidden + `unexpected operation "CREATE"`},
		{"another's status", "pods/status", admission.Attributes{Operation: admission.Update, Object: on("p", "n2"), Old: on("p", "n2")}, forbidden + `node "n1" can only update pod status for pods with spec.nodeName set to itself`},
		{"labels through the status", "pods/status", admission.Attributes{Operation: admission.Update, Object: changed(func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }), Old: on("own", "n1")}, `pods "own" is forbidden: node "n1" cannot update labels through pod status`},
		{"claims through the status", "pods/status", admission.Attributes{Operation: admission.Update, Object: changed(func(p *corev1.Pod) { p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "d"}} }), Old: on("own", "n1")}, `pods "own" is forbidden: node "n1" cannot update resource claim statues`},
		{"extended claims through the status", "pods/status", admission.Attributes{Operation: admission.Update, Object: changed(func(p *corev1.Pod) { p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{} }), Old: on("own", "n1")}, `pods "own" is forbidden: node "n1" cannot update extended resource claim status`},
		{"eviction of its own", "pods/eviction", admission.Attributes{Name: "own", Namespace: "x", Object: eviction("")}, ""},
		{"eviction by the body's name", "pods/eviction", admission.Attributes{Namespace: "x", Object: eviction("own")}, ""},
		{"eviction of nothing", "pods/eviction", admission.Attributes{Namespace: "x", Object: eviction("")}, `pods "Unknown" is forbidden: could not determine pod from request data`},
		{"eviction of none", "pods/eviction", admission.Attributes{Name: "none", Namespace: "x", Object: eviction("")}, `pods "none" not found`},
		{"eviction of another's", "pods/eviction", admission.Attributes{Name: "other", Namespace: "x", Object: eviction("")}, `pods "other" is forbidden: node n1 can only evict pods with spec.nodeName set to itself`},
		{"binding", "pods/binding", admission.Attributes{Object: &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p"}}}, forbidden + `unexpected pod subresource "binding", only 'status' and 'eviction' are allowed`},

		{"itself", "nodes", admission.Attributes{Object: labelled("kubernetes.io/hostname")}, ""},
		{"its labels", "nodes", admission.Attributes{Object: labelled("example.com/x")}, ""},
		{"kubelet's labels", "nodes", admission.Attributes{Object: labelled("kubelet.kubernetes.io/x")}, ""},
		{"node's labels", "nodes", admission.Attributes{Object: labelled("x.node.kubernetes.io/x")}, ""},
		{"administrators' labels", "nodes", admission.Attributes{Object: labelled("node-restriction.kubernetes.io/x")}, `nodes "n1" is forbidden: node "n1" is not allowed to set the following labels: node-restriction.kubernetes.io/x`},
		{"labels below administrators'", "nodes", admission.Attributes{Object: labelled("a.node-restriction.kubernetes.io/x")}, `nodes "n1" is forbidden: node "n1" is not allowed to set the following labels: a.node-restriction.kubernetes.io/x`},
		{"unknown labels", "nodes", admission.Attributes{Object: labelled("k8s.io/x")}, `nodes "n1" is forbidden: node "n1" is not allowed to set the following labels: k8s.io/x`},
		{"roles", "nodes", admission.Attributes{Operation: admission.Update, Object: labelled("node-role.kubernetes.io/x"), Old: labelled("a")}, `nodes "n1" is forbidden: is not allowed to modify labels: node-role.kubernetes.io/x`},
		{"no more roles", "nodes", admission.Attributes{Operation: admission.Update, Object: labelled("a"), Old: labelled("node-role.kubernetes.io/x")}, `nodes "n1" is forbidden: is not allowed to modify labels: node-role.kubernetes.io/x`},
		{"taints", "nodes", admission.Attributes{Operation: admission.Update, Object: withNode(func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "a"}} }), Old: node}, `nodes "n1" is forbidden: node "n1" is not allowed to modify taints`},
		{"owners", "nodes", admission.Attributes{Operation: admission.Update, Object: withNode(func(n *corev1.Node) { n.OwnerReferences = []metav1.OwnerReference{{Name: "o"}} }), Old: withNode(func(*corev1.Node) {})}, `nodes "n1" is forbidden: node "n1" is not allowed to modify ownerReferences`},
		{"configuration", "nodes", admission.Attributes{Object: withNode(func(n *corev1.Node) { n.Spec.ConfigSource = &corev1.NodeConfigSource{} })}, `nodes "n1" is forbidden: node "n1" is not allowed to create pods with a non-nil configSource`},
		{"another configuration", "nodes", admission.Attributes{Operation: admission.Update, Object: withNode(func(n *corev1.Node) { n.Spec.ConfigSource = &corev1.NodeConfigSource{} }), Old: withNode(func(*corev1.Node) {})}, `nodes "n1" is forbidden: node "n1" is not allowed to update configSource to a new non-nil configSource`},
		{"another", "nodes", admission.Attributes{Operation: admission.Delete, Name: "n2"}, `nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2"`},

		{"growth of a claim", "persistentvolumeclaims/status", admission.Attributes{Operation: admission.Update, Object: claim(func(c *corev1.PersistentVolumeClaim) {
			c.Status.Capacity, c.Status.AllocatedResources = list("storage", "1Gi"), list("storage", "1Gi")
		}), Old: claim(func(*corev1.PersistentVolumeClaim) {})}, ""},
		{"phase of a claim", "persistentvolumeclaims/status", admission.Attributes{Operation: admission.Update, Object: claim(func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = "Lost" }), Old: claim(func(*corev1.PersistentVolumeClaim) {})},
			`persistentvolumeclaims "c" is forbidden: node "n1" is not allowed to update fields other than status.capacity and status.conditions`},
		{"creation of a claim's status", "persistentvolumeclaims/status", admission.Attributes{Object: claim(func(*corev1.PersistentVolumeClaim) {})}, `persistentvolumeclaims "c" is forbidden: unexpected operation "CREATE"`},
		{"a claim", "persistentvolumeclaims", admission.Attributes{Operation: admission.Delete, Name: "c"}, `persistentvolumeclaims "c" is forbidden: may only update PVC status`},

		{"own lease", "leases.coordination.k8s.io", admission.Attributes{Object: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-node-lease", Name: "n1"}}}, ""},
		{"another's lease", "leases.coordination.k8s.io", admission.Attributes{Object: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-node-lease", Name: "n2"}}}, `leases.coordination.k8s.io "n2" is forbidden: can only access node lease with the same name as the requesting node`},
		{"lease elsewhere", "leases.coordination.k8s.io", admission.Attributes{Operation: admission.Update, Object: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "n1"}}}, `leases.coordination.k8s.io "n1" is forbidden: can only access leases in the "kube-node-lease" system namespace`},
		{"own CSINode", "csinodes.storage.k8s.io", admission.Attributes{Object: &storagev1.CSINode{ObjectMeta: meta("n1")}}, ""},
		{"another's CSINode", "csinodes.storage.k8s.io", admission.Attributes{Object: &storagev1.CSINode{ObjectMeta: meta("n2")}}, `csinodes.storage.k8s.io "n2" is forbidden: can only access CSINode with the same name as the requesting node`},

		{"own slice", "resourceslices.resource.k8s.io", admission.Attributes{Object: slice(ptr.To("n1"))}, ""},
		{"nobody's slice", "resourceslices.resource.k8s.io", admission.Attributes{Object: slice(nil)}, `resourceslices.resource.k8s.io "s" is forbidden: can only create ResourceSlice with the same NodeName as the requesting node`},
		{"another's slice", "resourceslices.resource.k8s.io", admission.Attributes{Operation: admission.Update, Object: slice(ptr.To("n1")), Old: slice(ptr.To("n2"))}, `resourceslices.resource.k8s.io "s" is forbidden: can only update ResourceSlice with the same NodeName as the requesting node`},
		{"end of another's slice", "resourceslices.resource.k8s.io", admission.Attributes{Operation: admission.Delete, Name: "s", Old: slice(ptr.To("n2"))}, `resourceslices.resource.k8s.io "s" is forbidden: can only delete ResourceSlice with the same NodeName as the requesting node`},

		{"token", "serviceaccounts/token", admission.Attributes{Object: token(func(*authenticationv1.TokenRequest) {}), Namespace: "x", Name: "default"}, ""},
		{"unbound token", "serviceaccounts/token", admission.Attributes{Object: token(func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef = nil }), Namespace: "x", Name: "default"}, `serviceaccounts "default" is forbidden: node requested token not bound to a pod`},
		{"token of a node", "serviceaccounts/token", admission.Attributes{Object: token(func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef.Kind = "Node" }), Namespace: "x", Name: "default"}, `serviceaccounts "default" is forbidden: node requested token not bound to a pod`},
		{"token without a life", "serviceaccounts/token", admission.Attributes{Object: token(func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef.UID = "" }), Namespace: "x", Name: "default"}, `serviceaccounts "default" is forbidden: node requested token with a pod binding without a uid`},
		{"token of another life", "serviceaccounts/token", admission.Attributes{Object: token(func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef.UID = "z" }), Namespace: "x", Name: "default"}, `serviceaccounts "default" is forbidden: the UID in the bound object reference (z) does not match the UID in record. The object might have been deleted and then recreated`},
		{"token of another's pod", "serviceaccounts/token", admission.Attributes{Object: token(func(r *authenticationv1.TokenRequest) {
			r.Spec.BoundObjectRef.Name, r.Spec.BoundObjectRef.UID = "other", other.UID
		}), Namespace: "x", Name: "default"}, `serviceaccounts "default" is forbidden: node requested token bound to a pod scheduled on a different node`},
		{"token for others", "serviceaccounts/token", admission.Attributes{Object: token(func(r *authenticationv1.TokenRequest) { r.Spec.Audiences = []string{"bank"} }), Namespace: "x", Name: "default"}, `serviceaccounts "default" is forbidden: audience "bank" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience`},
		{"token for two", "serviceaccounts/token", admission.Attributes{Object: token(func(r *authenticationv1.TokenRequest) { r.Spec.Audiences = []string{"vault", "vault"} }), Namespace: "x", Name: "default"}, `serviceaccounts "default" is forbidden: node may only request 0 or 1 audiences`},
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
