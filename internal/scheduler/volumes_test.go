package scheduler_test

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
)

func claim(name, class string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaim {
	if len(modes) == 0 {
		modes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: modes, StorageClassName: &class,
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
}

// volume is on the node of that name, or anywhere, and free.
func volume(t *testing.T, c *testcluster.Cluster, name, class, node string, change ...func(*corev1.PersistentVolume)) {
	t.Helper()
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
		AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		StorageClassName:       class,
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}},
	}}
	if node != "" {
		pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}}}}
	}
	for _, f := range change {
		f(pv)
	}
	create(t, c, pv)
	pv.Status.Phase = corev1.VolumeAvailable
	if err := c.Client.Status().Update(t.Context(), pv); err != nil {
		t.Fatal(err)
	}
}

func class(name, provisioner string) *storagev1.StorageClass {
	return &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner,
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
	}
}

func using(claims ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, name := range claims {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
			}})
		}
	}
}

// bindAsController finishes what the scheduler asked for: it binds claims to
// the volumes that name them, and makes those that are to be made.
func bindAsController(t *testing.T, c *testcluster.Cluster, name string) {
	t.Helper()
	ctx := context.Background()
	key := client.ObjectKey{Namespace: "default", Name: name}
	eventually(t, c, &corev1.PersistentVolumeClaimList{}, &corev1.PersistentVolumeList{}, "the scheduler chose for claim "+name, func() bool {
		pvc := &corev1.PersistentVolumeClaim{}
		if err := c.Client.Get(ctx, key, pvc); err != nil {
			t.Fatal(err)
		}
		if node := pvc.Annotations["volume.kubernetes.io/selected-node"]; node != "" {
			volume(t, c, "made-"+name, *pvc.Spec.StorageClassName, node, func(pv *corev1.PersistentVolume) {
				pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: name, UID: pvc.UID}
			})
		}
		var pvs corev1.PersistentVolumeList
		if err := c.Client.List(ctx, &pvs); err != nil {
			t.Fatal(err)
		}
		for i := range pvs.Items {
			if ref := pvs.Items[i].Spec.ClaimRef; ref != nil && ref.UID == pvc.UID {
				bind(t, c, pvc, pvs.Items[i].Name)
				return true
			}
		}
		return false
	})
}

func bind(t *testing.T, c *testcluster.Cluster, pvc *corev1.PersistentVolumeClaim, pv string) {
	t.Helper()
	pvc.Spec.VolumeName = pv
	metav1.SetMetaDataAnnotation(&pvc.ObjectMeta, "pv.kubernetes.io/bind-completed", "yes")
	if err := c.Client.Update(context.Background(), pvc); err != nil {
		t.Fatal(err)
	}
	pvc.Status.Phase = corev1.ClaimBound
	if err := c.Client.Status().Update(context.Background(), pvc); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for ok, looking again whenever objects of the kinds change.
func eventually(t *testing.T, c *testcluster.Cluster, one, other client.ObjectList, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a, err := c.Client.Watch(ctx, one)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Stop()
	b, err := c.Client.Watch(ctx, other)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Stop()
	for !ok() {
		select {
		case <-a.ResultChan():
		case <-b.ResultChan():
		case <-ctx.Done():
			t.Fatalf("%s: not in time", what)
		}
	}
}

func on(node string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return p.Spec.NodeName == node }
}

func refused(message string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		for i := range p.Status.Conditions {
			if c := &p.Status.Conditions[i]; c.Type == corev1.PodScheduled && strings.Contains(c.Message, message) {
				return true
			}
		}
		return false
	}
}

func TestVolumesWhereTheyAre(t *testing.T) {
	c := start(t)
	for _, name := range []string{"n1", "n2", "n3"} {
		node(t, c, name)
	}
	create(t, c, class("local", "kubernetes.io/no-provisioner"))
	create(t, c, claim("a", "local"))
	create(t, c, claim("b", "local"))

	// Nothing is there yet; then a volume comes, for both claims only one.
	create(t, c, pod("both", using("a", "b")))
	until(t, c, "both", "refused", refused("0/3 nodes are available: 3 node(s) didn't find available persistent volumes to bind."))
	volume(t, c, "v1", "local", "n1")
	volume(t, c, "v2a", "local", "n2")
	volume(t, c, "v2b", "local", "n2")
	bindAsController(t, c, "a")
	bindAsController(t, c, "b")
	until(t, c, "both", "on n2", on("n2"))

	// A bound claim keeps its pods where the volume is.
	create(t, c, pod("again", using("a"), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "n3"} }))
	until(t, c, "again", "refused", refused("1 node(s) didn't match PersistentVolume's node affinity"))

	gone := claim("gone", "local")
	create(t, c, gone)
	bind(t, c, gone, "nothing")
	for message, p := range map[string]*corev1.Pod{
		`0/3 nodes are available: persistentvolume "nothing" not found.`: pod("gone", using("gone")),
		`persistentvolumeclaim "nope" not found`:                         pod("missing", using("nope")),
		`waiting for ephemeral volume controller to create the persistentvolumeclaim "early-v"`: pod("early", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
				VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: claim("", "local").Spec},
			}}}}
		}),
		"pod has unbound immediate PersistentVolumeClaims": pod("immediate", using("static")),
	} {
		if p.Name == "immediate" {
			create(t, c, claim("static", ""))
		}
		create(t, c, p)
		until(t, c, p.Name, "refused", refused(message))
	}
	// It comes into being.
	pvc := claim("nope", "local")
	volume(t, c, "v3", "local", "n3")
	create(t, c, pvc)
	bindAsController(t, c, "nope")
	until(t, c, "missing", "on a node", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })
}

func TestVolumesToBeMade(t *testing.T) {
	c := start(t)
	node(t, c, "n1")
	node(t, c, "n2", func(n *corev1.Node) { n.Labels["zone"] = "z" })
	zoned := class("zoned", "example.com/disk")
	zoned.AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: "zone", Values: []string{"z"}}}}}
	create(t, c, zoned)
	create(t, c, class("counted", "counted.example.com"))
	create(t, c, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "counted.example.com"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: ptr.To(true)}})
	create(t, c, claim("zoned", "zoned"))
	create(t, c, pod("zoned", using("zoned")))
	bindAsController(t, c, "zoned")
	until(t, c, "zoned", "on n2", on("n2"))

	create(t, c, claim("counted", "counted"))
	create(t, c, pod("counted", using("counted")))
	until(t, c, "counted", "refused", refused("2 node(s) did not have enough free storage"))
	create(t, c, &storagev1.CSIStorageCapacity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "n1"}, StorageClassName: "counted", Capacity: ptr.To(resource.MustParse("10Gi")),
		NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelHostname: "n1"}},
	})
	// The provisioner gives up on the node that was chosen: the pod is told, and
	// tried again.
	key := client.ObjectKey{Namespace: "default", Name: "counted"}
	pvc := &corev1.PersistentVolumeClaim{}
	eventually(t, c, &corev1.PersistentVolumeClaimList{}, &corev1.PodList{}, "a node was chosen", func() bool {
		if err := c.Client.Get(t.Context(), key, pvc); err != nil {
			t.Fatal(err)
		}
		return pvc.Annotations["volume.kubernetes.io/selected-node"] == "n1"
	})
	delete(pvc.Annotations, "volume.kubernetes.io/selected-node")
	if err := c.Client.Update(t.Context(), pvc); err != nil {
		t.Fatal(err)
	}
	until(t, c, "counted", "told", refused(`running PreBind plugin "VolumeBinding": binding volumes: provisioning failed for PVC "counted"`))
	bindAsController(t, c, "counted")
	until(t, c, "counted", "on n1", on("n1"))
}

func TestVolumesThatExclude(t *testing.T) {
	c := start(t)
	node(t, c, "n1")
	node(t, c, "n2", func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = "z2" })
	create(t, c, class("c", "csi.example.com"))
	csi := func(handle string) func(*corev1.PersistentVolume) {
		return func(pv *corev1.PersistentVolume) {
			pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi.example.com", VolumeHandle: handle}}
		}
	}
	give := func(name, node string, pvc *corev1.PersistentVolumeClaim, change ...func(*corev1.PersistentVolume)) {
		t.Helper()
		create(t, c, pvc)
		volume(t, c, name, "c", node, append(change, csi(name), func(pv *corev1.PersistentVolume) {
			pv.Spec.AccessModes = pvc.Spec.AccessModes
			pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: pvc.Name, UID: pvc.UID}
		})...)
		bind(t, c, pvc, name)
	}
	give("v1", "", claim("one", "c", corev1.ReadWriteOncePod))
	create(t, c, pod("first", using("one")))
	first := until(t, c, "first", "scheduled", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })
	create(t, c, pod("second", using("one")))
	until(t, c, "second", "refused", refused("0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode."))
	if err := c.Client.Delete(t.Context(), first, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	until(t, c, "second", "scheduled", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })

	// Zones of volumes, and how many volumes a node can have.
	give("v2", "", claim("zoned", "c"), func(pv *corev1.PersistentVolume) {
		pv.Labels = map[string]string{corev1.LabelTopologyZone: "z1__z3"}
	})
	create(t, c, pod("zoned", using("zoned"), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "n2"} }))
	until(t, c, "zoned", "refused", refused("1 node(s) had no available volume zone"))

	create(t, c, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{
		Name: "csi.example.com", NodeID: "n1", Allocatable: &storagev1.VolumeNodeResources{Count: ptr.To(int32(1))},
	}}}})
	give("v3", "n1", claim("three", "c"))
	give("v4", "n1", claim("four", "c"))
	if err := c.Client.Delete(t.Context(), pod("second"), client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	create(t, c, pod("three", using("three")))
	until(t, c, "three", "on n1", on("n1"))
	create(t, c, pod("four", using("four")))
	until(t, c, "four", "refused", refused("1 node(s) exceed max volume count"))
	// The same volume again is no more.
	create(t, c, pod("five", using("three")))
	until(t, c, "five", "on n1", on("n1"))
}
