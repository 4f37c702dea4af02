package controllers_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/localpath"
)

func pv(name, size, class string, change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
		AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		StorageClassName:       class,
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp/" + name}},
	}}
	for _, f := range change {
		f(v)
	}
	return v
}

func pvc(name, size string, class *string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: class,
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
	}}
	for _, f := range change {
		f(c)
	}
	return c
}

func storageClass(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

// claimIs waits until a claim has the phase and the volume.
func claimIs(t *testing.T, c *controllertest.Cluster, name string, phase corev1.PersistentVolumeClaimPhase, volume string) *corev1.PersistentVolumeClaim {
	t.Helper()
	claim := &corev1.PersistentVolumeClaim{}
	c.Eventually(fmt.Sprintf("claim %s is %s on volume %q", name, phase, volume), &corev1.PersistentVolumeClaimList{}, func() bool {
		controllertest.Get(c, "default", name, claim)
		return claim.Status.Phase == phase && claim.Spec.VolumeName == volume
	})
	return claim
}

func volumeIs(t *testing.T, c *controllertest.Cluster, name string, phase corev1.PersistentVolumePhase) *corev1.PersistentVolume {
	t.Helper()
	v := &corev1.PersistentVolume{}
	c.Eventually(fmt.Sprintf("volume %s is %s", name, phase), &corev1.PersistentVolumeList{}, func() bool {
		controllertest.Get(c, "", name, v)
		return v.Status.Phase == phase
	})
	return v
}

func gone(t *testing.T, c *controllertest.Cluster, o client.Object, list client.ObjectList) {
	t.Helper()
	c.Eventually(o.GetName()+" is gone", list, func() bool {
		return apierrors.IsNotFound(c.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o))
	})
}

func TestBindingOfVolumes(t *testing.T) {
	c := start(t)
	empty := ptr.To("")
	c.Create(
		pv("big", "10Gi", ""), pv("small", "2Gi", ""), pv("classed", "1Gi", "fast"),
		pv("labelled", "50Gi", "", func(v *corev1.PersistentVolume) { v.Labels = map[string]string{"disk": "good"} }),
		pv("kept", "1Gi", "kept", func(v *corev1.PersistentVolume) {
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "named"}
		}))
	for _, name := range []string{"big", "small", "classed", "labelled", "kept"} {
		volumeIs(t, c, name, corev1.VolumeAvailable)
	}

	// The smallest that will do; then the next; then none is left.
	c.Create(pvc("one", "1Gi", empty))
	one := claimIs(t, c, "one", corev1.ClaimBound, "small")
	if got := one.Status.Capacity.Storage().String(); got != "2Gi" {
		t.Errorf("the claim has %s", got)
	}
	for _, a := range []string{"pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller"} {
		if one.Annotations[a] != "yes" {
			t.Errorf("annotation %s is missing: %v", a, one.Annotations)
		}
	}
	small := volumeIs(t, c, "small", corev1.VolumeBound)
	if small.Spec.ClaimRef.UID != one.UID || small.Spec.ClaimRef.Kind != "PersistentVolumeClaim" {
		t.Errorf("the volume refers to %v", small.Spec.ClaimRef)
	}
	c.Create(pvc("two", "1Gi", empty, func(c *corev1.PersistentVolumeClaim) {
		c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "good"}}
	}))
	claimIs(t, c, "two", corev1.ClaimBound, "labelled")
	c.Create(pvc("three", "1Gi", ptr.To("fast")), pvc("named", "1Gi", ptr.To("kept")))
	claimIs(t, c, "three", corev1.ClaimBound, "classed")
	claimIs(t, c, "named", corev1.ClaimBound, "kept")
	c.Create(pvc("four", "11Gi", empty))
	if said := c.WaitForEvent("", "four", "FailedBinding"); said != "no persistent volumes available for this claim and no storage class is set" {
		t.Errorf("event says %q", said)
	}
	// A volume that comes later is found, and so is one asked for by name.
	c.Create(pvc("later", "1Gi", ptr.To("x"), func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "late" }))
	c.Create(pv("huge", "12Gi", ""), pv("late", "1Gi", "x"))
	claimIs(t, c, "four", corev1.ClaimBound, "huge")
	claimIs(t, c, "later", corev1.ClaimBound, "late")
}

func TestReclaim(t *testing.T) {
	c := start(t)
	empty := ptr.To("")
	policy := func(p corev1.PersistentVolumeReclaimPolicy) func(*corev1.PersistentVolume) {
		return func(v *corev1.PersistentVolume) { v.Spec.PersistentVolumeReclaimPolicy = p }
	}
	c.Create(pv("retain", "1Gi", "a"), pv("delete", "1Gi", "b", policy(corev1.PersistentVolumeReclaimDelete)))
	c.Create(pvc("a", "1Gi", ptr.To("a")), pvc("b", "1Gi", ptr.To("b")))
	first := claimIs(t, c, "a", corev1.ClaimBound, "retain")
	claimIs(t, c, "b", corev1.ClaimBound, "delete")
	c.Delete(pvc("a", "1Gi", empty))
	c.Delete(pvc("b", "1Gi", empty))
	volumeIs(t, c, "retain", corev1.VolumeReleased)
	if v := volumeIs(t, c, "delete", corev1.VolumeFailed); v.Status.Message != `error getting deleter volume plugin for volume "delete": no deletable volume plugin matched` {
		t.Errorf("message %q", v.Status.Message)
	}

	// A claim of the same name is another claim: it does not get the data.
	c.Create(pvc("a", "1Gi", ptr.To("a")))
	c.WaitForEvent("", "a", "ProvisioningFailed")
	v := volumeIs(t, c, "retain", corev1.VolumeReleased)
	if v.Spec.ClaimRef.UID != first.UID {
		t.Errorf("the volume now refers to %v", v.Spec.ClaimRef)
	}
	// Until the administrator gives the volume away again.
	v.Spec.ClaimRef = nil
	if err := c.Client.Update(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	claimIs(t, c, "a", corev1.ClaimBound, "retain")
	// Without its volume a claim is lost; nothing can be done about it. The
	// protection is put back unless the volume is being deleted.
	if err := c.Client.Delete(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	v = controllertest.Get(c, "", "retain", v)
	v.Finalizers = nil
	if err := c.Client.Update(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	claimIs(t, c, "a", corev1.ClaimLost, "retain")
	c.WaitForEvent("", "a", "ClaimLost")
}

// directories stands in for the nodes that keep volumes; those that are not
// ready do not answer.
type directories struct{ root string }

func (d directories) MakeVolume(_ context.Context, node *corev1.Node, name string) (string, error) {
	path := filepath.Join(d.root, node.Name, name)
	return path, os.MkdirAll(path, 0o777)
}

func (d directories) RemoveVolume(_ context.Context, node *corev1.Node, path string) error {
	if !ready(node) {
		return errors.New("no route to host")
	}
	return os.RemoveAll(path)
}

func ready(n *corev1.Node) bool {
	return len(n.Status.Conditions) > 0 && n.Status.Conditions[0].Status == corev1.ConditionTrue
}

func TestLocalPath(t *testing.T) {
	c := start(t)
	if err := localpath.EnsureClass(t.Context(), c.Client); err != nil {
		t.Fatal(err)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelHostname: "host1"}}}
	c.Create(node)
	c.Create(pvc("data", "1Gi", nil), pvc("shared", "1Gi", nil, func(c *corev1.PersistentVolumeClaim) {
		c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	}))
	c.WaitForEvent("", "data", "WaitForFirstConsumer")
	choose := func(name, node string) {
		t.Helper()
		claim := controllertest.Get(c, "default", name, &corev1.PersistentVolumeClaim{})
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, "volume.kubernetes.io/selected-node", node)
		if err := c.Client.Update(t.Context(), claim); err != nil {
			t.Fatal(err)
		}
	}
	choose("shared", "n1")
	if said := c.WaitForEvent("", "shared", "ProvisioningFailed"); !strings.Contains(said, "access mode ReadWriteMany is not supported") {
		t.Errorf("event says %q", said)
	}
	// A node that is gone is not waited for.
	choose("data", "nowhere")
	c.Eventually("another node may be chosen", &corev1.PersistentVolumeClaimList{}, func() bool {
		_, chosen := controllertest.Get(c, "default", "data", &corev1.PersistentVolumeClaim{}).Annotations["volume.kubernetes.io/selected-node"]
		return !chosen
	})
	choose("data", "n1")
	claim := &corev1.PersistentVolumeClaim{}
	c.Eventually("the claim is bound", &corev1.PersistentVolumeClaimList{}, func() bool {
		return controllertest.Get(c, "default", "data", claim).Status.Phase == corev1.ClaimBound
	})
	v := controllertest.Get(c, "", claim.Spec.VolumeName, &corev1.PersistentVolume{})
	path := v.Spec.Local.Path
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		t.Fatalf("the volume is not there: %v", err)
	}
	if terms := v.Spec.NodeAffinity.Required.NodeSelectorTerms; terms[0].MatchExpressions[0].Values[0] != "host1" {
		t.Errorf("the volume is on %v", terms)
	}
	// The node does not answer when the claim goes: the volume waits for it.
	c.Delete(pvc("data", "1Gi", nil))
	c.WaitForEvent("", v.Name, "VolumeFailedDelete")
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	controllertest.Get(c, "", v.Name, v)
	controllertest.Get(c, "", "n1", node)
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if err := c.Client.Status().Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	gone(t, c, v, &corev1.PersistentVolumeList{})
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the volume is still on the node: %v", err)
	}
}

func TestTwoClaimsOneVolume(t *testing.T) {
	c := start(t)
	const rivals = 8
	for i := range rivals {
		c.Create(pvc(fmt.Sprintf("rival-%d", i), "1Gi", ptr.To("")))
	}
	c.Create(pv("wanted", "1Gi", ""))
	v := volumeIs(t, c, "wanted", corev1.VolumeBound)
	claimIs(t, c, v.Spec.ClaimRef.Name, corev1.ClaimBound, "wanted")
	var claims corev1.PersistentVolumeClaimList
	if err := c.Client.List(t.Context(), &claims); err != nil {
		t.Fatal(err)
	}
	bound := 0
	for i := range claims.Items {
		if claims.Items[i].Spec.VolumeName != "" {
			bound++
		}
	}
	if bound != 1 {
		t.Errorf("%d claims have the volume", bound)
	}
	// The winner goes; the volume stays with its data, for nobody.
	c.Delete(pvc(v.Spec.ClaimRef.Name, "1Gi", nil))
	volumeIs(t, c, "wanted", corev1.VolumeReleased)
}

// TestBindingResumes starts with what a crash in the middle of a binding left.
func TestBindingResumes(t *testing.T) {
	c := controllertest.Of(t, testcluster.Start(t))
	claim := pvc("half", "1Gi", ptr.To(""))
	c.Create(claim)
	c.Create(pv("half", "5Gi", "", func(v *corev1.PersistentVolume) {
		v.Annotations = map[string]string{"pv.kubernetes.io/bound-by-controller": "yes"}
		v.Spec.ClaimRef = &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: "default", Name: "half", UID: claim.UID}
	}), pv("better", "1Gi", ""))
	run(t, c)
	claimIs(t, c, "half", corev1.ClaimBound, "half")
	volumeIs(t, c, "half", corev1.VolumeBound)
	volumeIs(t, c, "better", corev1.VolumeAvailable)
}

func TestProvisioningByOthers(t *testing.T) {
	c := start(t)
	c.Create(
		storageClass("now", "example.com/disk", storagev1.VolumeBindingImmediate),
		storageClass("wait", "example.com/disk", storagev1.VolumeBindingWaitForFirstConsumer))
	c.Create(pvc("now", "1Gi", ptr.To("now")), pvc("wait", "1Gi", ptr.To("wait")))
	said := c.WaitForEvent("", "now", "ExternalProvisioning")
	if want := "Waiting for a volume to be created either by the external provisioner 'example.com/disk' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."; said != want {
		t.Errorf("event says %q", said)
	}
	c.WaitForEvent("", "wait", "WaitForFirstConsumer")
	provisioner := func(name string) bool {
		claim := controllertest.Get(c, "default", name, &corev1.PersistentVolumeClaim{})
		return claim.Annotations["volume.kubernetes.io/storage-provisioner"] == "example.com/disk" &&
			claim.Annotations["volume.beta.kubernetes.io/storage-provisioner"] == "example.com/disk"
	}
	if !provisioner("now") || provisioner("wait") {
		t.Error("the provisioner was asked for the wrong claim")
	}
	// A matching volume does not bind before there is a node.
	c.Create(pv("near", "1Gi", "wait"))
	volumeIs(t, c, "near", corev1.VolumeAvailable)
	waiting := controllertest.Get(c, "default", "wait", &corev1.PersistentVolumeClaim{})
	waiting.Annotations = maps.Clone(waiting.Annotations)
	metav1.SetMetaDataAnnotation(&waiting.ObjectMeta, "volume.kubernetes.io/selected-node", "n1")
	if err := c.Client.Update(t.Context(), waiting); err != nil {
		t.Fatal(err)
	}
	claimIs(t, c, "wait", corev1.ClaimBound, "near")

	// What the provisioner makes belongs to it until the end.
	c.Create(pv("made", "1Gi", "now", func(v *corev1.PersistentVolume) {
		claim := controllertest.Get(c, "default", "now", &corev1.PersistentVolumeClaim{})
		v.Annotations = map[string]string{"pv.kubernetes.io/provisioned-by": "example.com/disk"}
		v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
		v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "default", Name: "now", UID: claim.UID}
	}))
	claimIs(t, c, "now", corev1.ClaimBound, "made")
	c.Delete(pvc("now", "1Gi", nil))
	volumeIs(t, c, "made", corev1.VolumeReleased)
	// A claim made before there was a default class gets it when it comes.
	c.Create(pvc("early", "1Gi", nil))
	c.WaitForEvent("", "early", "FailedBinding")
	class := storageClass("default", "example.com/disk", storagev1.VolumeBindingImmediate)
	class.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	c.Create(class)
	c.WaitForEvent("", "early", "ExternalProvisioning")
	if early := controllertest.Get(c, "default", "early", &corev1.PersistentVolumeClaim{}); ptr.Deref(early.Spec.StorageClassName, "") != "default" {
		t.Errorf("class %v", early.Spec.StorageClassName)
	}
}

func TestStorageProtection(t *testing.T) {
	c := start(t)
	c.Create(pv("used", "1Gi", ""), pvc("used", "1Gi", ptr.To("")))
	claimIs(t, c, "used", corev1.ClaimBound, "used")
	serviceAccount(t, c)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "user"}, Spec: corev1.PodSpec{
		NodeName: "somewhere", Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "used"}}}},
	}}
	c.Create(pod)
	c.Delete(pv("used", "1Gi", ""))
	c.Delete(pvc("used", "1Gi", nil))
	// Another claim comes and goes; the used one stays.
	c.Create(pvc("free", "1Gi", ptr.To("")))
	c.Delete(pvc("free", "1Gi", nil))
	gone(t, c, pvc("free", "1Gi", nil), &corev1.PersistentVolumeClaimList{})
	claim := controllertest.Get(c, "default", "used", &corev1.PersistentVolumeClaim{})
	if claim.DeletionTimestamp == nil || claim.Status.Phase != corev1.ClaimBound {
		t.Fatalf("the claim is %+v", claim)
	}
	if err := c.Client.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	gone(t, c, claim, &corev1.PersistentVolumeClaimList{})
	gone(t, c, pv("used", "1Gi", ""), &corev1.PersistentVolumeList{})

	class := &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: "gold"}, DriverName: "d.example.com", Parameters: map[string]string{"a": "b"}}
	having := pvc("having", "1Gi", ptr.To("none"), func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeAttributesClassName = ptr.To("gold") })
	c.Create(class, having)
	c.Delete(class)
	if got := controllertest.Get(c, "", "gold", &storagev1.VolumeAttributesClass{}); got.DeletionTimestamp == nil {
		t.Error("the class is not being deleted")
	}
	c.Delete(having)
	gone(t, c, class, &storagev1.VolumeAttributesClassList{})
}

func serviceAccount(t *testing.T, c *controllertest.Cluster) {
	t.Helper()
	c.Eventually("service account", &corev1.ServiceAccountList{}, func() bool {
		return c.Client.Get(context.Background(), client.ObjectKey{Namespace: "default", Name: "default"}, &corev1.ServiceAccount{}) == nil
	})
}

func TestEphemeralVolumes(t *testing.T) {
	c := start(t)
	serviceAccount(t, c)
	// Somebody else's claim is in the way of one volume.
	c.Create(pvc("p-taken", "1Gi", ptr.To("")))
	ephemeral := func(name string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
			VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"for": name}}, Spec: pvc("", "1Gi", ptr.To("x")).Spec,
			},
		}}}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i"}}, Volumes: []corev1.Volume{ephemeral("own"), ephemeral("taken")},
	}}
	c.Create(pod)
	said := c.WaitForEvent("", "p", "FailedBinding")
	if want := "ephemeral volume taken: PVC default/p-taken was not created for pod default/p (pod is not owner)"; said != want {
		t.Errorf("event says %q, want %q", said, want)
	}
	own := controllertest.Get(c, "default", "p-own", &corev1.PersistentVolumeClaim{})
	if !metav1.IsControlledBy(own, pod) || own.Labels["for"] != "own" {
		t.Errorf("the claim is %+v", own.ObjectMeta)
	}
	c.Delete(pvc("p-taken", "1Gi", nil))
	claim := &corev1.PersistentVolumeClaim{}
	c.Eventually("the claim is the pod's", &corev1.PersistentVolumeClaimList{}, func() bool {
		return c.Client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "p-taken"}, claim) == nil && metav1.IsControlledBy(claim, pod)
	})
	if err := c.Client.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	gone(t, c, own, &corev1.PersistentVolumeClaimList{})
}

func TestAttachAndDetach(t *testing.T) {
	c := start(t)
	serviceAccount(t, c)
	csi := func(v *corev1.PersistentVolume) {
		v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi.example.com", VolumeHandle: v.Name}}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	c.Create(node, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}, pv("disk", "1Gi", "", csi), pvc("disk", "1Gi", ptr.To("")))
	claimIs(t, c, "disk", corev1.ClaimBound, "disk")
	user := func(name, node string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{
			NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "disk"}}}},
		}}
	}
	attachment := func(node string) *storagev1.VolumeAttachment {
		return &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("csi-%x", sha256.Sum256([]byte("disk"+"csi.example.com"+node)))}}
	}
	is := func(a *storagev1.VolumeAttachment) {
		t.Helper()
		c.Eventually("the volume is to be attached", &storagev1.VolumeAttachmentList{}, func() bool {
			return c.Client.Get(t.Context(), client.ObjectKeyFromObject(a), a) == nil
		})
	}
	one := user("one", "n1")
	c.Create(one)
	here := attachment("n1")
	is(here)
	if here.Spec.Attacher != "csi.example.com" || here.Spec.NodeName != "n1" || *here.Spec.Source.PersistentVolumeName != "disk" {
		t.Errorf("the attachment is %+v", here.Spec)
	}
	here.Status.Attached = true
	if err := c.Client.Status().Update(t.Context(), here); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the node says so", &corev1.NodeList{}, func() bool {
		controllertest.Get(c, "", "n1", node)
		return len(node.Status.VolumesAttached) == 1 && node.Status.VolumesAttached[0].Name == "kubernetes.io/csi/csi.example.com^disk"
	})
	c.WaitForEvent("", "one", "SuccessfulAttachVolume")

	// The node has it mounted; a pod on another node must wait, though the first
	// one is gone.
	node.Status.VolumesInUse = []corev1.UniqueVolumeName{"kubernetes.io/csi/csi.example.com^disk"}
	if err := c.Client.Status().Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if err := c.Client.Delete(t.Context(), one, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	c.Create(user("two", "n2"))
	if said := c.WaitForEvent("", "two", "FailedAttachVolume"); !strings.Contains(said, "Multi-Attach error for volume") {
		t.Errorf("event says %q", said)
	}
	if err := c.Client.Get(t.Context(), client.ObjectKeyFromObject(attachment("n2")), attachment("n2")); !apierrors.IsNotFound(err) {
		t.Errorf("attached twice: %v", err)
	}
	is(attachment("n1"))
	controllertest.Get(c, "", "n1", node)
	node.Status.VolumesInUse = nil
	if err := c.Client.Status().Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	gone(t, c, attachment("n1"), &storagev1.VolumeAttachmentList{})
	is(attachment("n2"))
	c.Eventually("the node has it no more", &corev1.NodeList{}, func() bool {
		return len(controllertest.Get(c, "", "n1", node).Status.VolumesAttached) == 0
	})
	// The driver says that it needs no attaching.
	c.Create(&storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "csi.example.com"}, Spec: storagev1.CSIDriverSpec{AttachRequired: ptr.To(false)}})
	gone(t, c, attachment("n2"), &storagev1.VolumeAttachmentList{})
}

func TestExpansionIsAnnounced(t *testing.T) {
	c := start(t)
	class := storageClass("grow", "example.com/disk", storagev1.VolumeBindingImmediate)
	class.AllowVolumeExpansion = ptr.To(true)
	c.Create(class, pv("grow", "1Gi", "grow"), pvc("grow", "1Gi", ptr.To("grow")))
	claim := claimIs(t, c, "grow", corev1.ClaimBound, "grow")
	claim.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("2Gi")
	if err := c.Client.Update(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	c.WaitForEvent("", "grow", "ExternalExpanding")
}

func TestResourceClaims(t *testing.T) {
	c := start(t)
	serviceAccount(t, c)
	spec := resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
		Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"},
	}}}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i"}},
		ResourceClaims: []corev1.PodResourceClaim{
			{Name: "made", ResourceClaimTemplateName: ptr.To("template")}, {Name: "given", ResourceClaimName: ptr.To("shared")},
		},
	}}
	c.Create(pod)
	if said := c.WaitForEvent("", "p", "FailedResourceClaimCreation"); !strings.HasPrefix(said, "PodResourceClaim made: ") {
		t.Errorf("event says %q", said)
	}
	c.Create(&resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "template"}, Spec: resourcev1.ResourceClaimTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"l": "v"}}, Spec: spec,
	}}, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "shared"}, Spec: spec})
	c.Eventually("the pod knows its claim", &corev1.PodList{}, func() bool {
		return len(controllertest.Get(c, "default", "p", pod).Status.ResourceClaimStatuses) == 1
	})
	status := pod.Status.ResourceClaimStatuses[0]
	claim := controllertest.Get(c, "default", *status.ResourceClaimName, &resourcev1.ResourceClaim{})
	if status.Name != "made" || !metav1.IsControlledBy(claim, pod) || claim.Labels["l"] != "v" || claim.GenerateName != "p-made-" ||
		claim.Annotations["resource.kubernetes.io/pod-claim-name"] != "made" {
		t.Errorf("the pod's claim is %+v", claim.ObjectMeta)
	}

	// As the scheduler does, for this pod and one that is gone already.
	allocate := func(claim *resourcev1.ResourceClaim) {
		t.Helper()
		claim.Finalizers = append(claim.Finalizers, resourcev1.Finalizer)
		if err := c.Client.Update(t.Context(), claim); err != nil {
			t.Fatal(err)
		}
		claim.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{
			Request: "r", Driver: "d.example.com", Pool: "pool", Device: "device",
		}}}}
		for _, uid := range []types.UID{pod.UID, "gone"} {
			claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: uid})
		}
		if err := c.Client.Status().Update(t.Context(), claim); err != nil {
			t.Fatal(err)
		}
	}
	shared := controllertest.Get(c, "default", "shared", &resourcev1.ResourceClaim{})
	allocate(claim)
	allocate(shared)
	c.Eventually("the pod that is gone reserves nothing", &resourcev1.ResourceClaimList{}, func() bool {
		return len(controllertest.Get(c, "default", "shared", shared).Status.ReservedFor) == 1
	})
	if shared.Status.ReservedFor[0].UID != pod.UID || shared.Status.Allocation == nil {
		t.Errorf("the claim is %+v", shared.Status)
	}
	// A device breaks: a pod with a node has to go, one without not.
	slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "pool"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: "d.example.com", AllNodes: ptr.To(true), Pool: resourcev1.ResourcePool{Name: "pool", ResourceSliceCount: 1},
		Devices: []resourcev1.Device{{Name: "device", Taints: []resourcev1.DeviceTaint{{Key: "broken", Effect: resourcev1.DeviceTaintEffectNoExecute}}}},
	}}
	c.Create(slice)
	victim := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "victim"}, Spec: corev1.PodSpec{
		NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}, ResourceClaims: []corev1.PodResourceClaim{{Name: "given", ResourceClaimName: ptr.To("shared")}},
	}}
	c.Create(victim)
	c.WaitForEvent("", "victim", "DeviceTaintManagerEviction")
	c.Eventually("the pod has to go", &corev1.PodList{}, func() bool {
		return controllertest.Get(c, "default", "victim", victim).DeletionTimestamp != nil
	})
	if !slices.ContainsFunc(victim.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Reason == "DeletionByDeviceTaintManager"
	}) {
		t.Errorf("the pod is %+v", victim.Status)
	}
	if err := c.Client.Delete(t.Context(), victim, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}

	// The pod ends: its own claim goes, the other one is free again.
	controllertest.Get(c, "default", "p", pod)
	pod.Status.Phase = corev1.PodSucceeded
	if err := c.Client.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	gone(t, c, claim, &resourcev1.ResourceClaimList{})
	c.Eventually("the claim is free", &resourcev1.ResourceClaimList{}, func() bool {
		controllertest.Get(c, "default", "shared", shared)
		return shared.Status.Allocation == nil && len(shared.Status.ReservedFor) == 0 && len(shared.Finalizers) == 0
	})
	c.Delete(shared)
	gone(t, c, shared, &resourcev1.ResourceClaimList{})
}
