package storage

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

func TestStorageClass(t *testing.T) {
	change := checkstest.Change[*storagev1.StorageClass]
	r := checkstest.Find(t, Resources(), "storageclasses")
	valid := checkstest.Parse[*storagev1.StorageClass](t, r, "metadata: {name: fast, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}\nprovisioner: example.com/Disk")
	if *valid.ReclaimPolicy != corev1.PersistentVolumeReclaimDelete || *valid.VolumeBindingMode != storagev1.VolumeBindingImmediate {
		t.Errorf("wrong defaults: %+v", valid)
	}
	if got := r.Cells(valid)[0]; got != "fast (default)" {
		t.Errorf("the default class is shown as %v", got)
	}
	checkstest.Create(t, r, valid,
		change("no provisioner", func(c *storagev1.StorageClass) { c.Provisioner = "" }, "provisioner: Required value: "),
		change("reclaim", func(c *storagev1.StorageClass) { c.ReclaimPolicy = ptr.To(corev1.PersistentVolumeReclaimRecycle) },
			`reclaimPolicy: Unsupported value: supported values: "Delete", "Retain"`),
	)
	checkstest.Update(t, r, valid,
		change("provisioner", func(c *storagev1.StorageClass) { c.Provisioner = "b" }, "provisioner: Forbidden: updates to provisioner are forbidden."),
		change("parameters", func(c *storagev1.StorageClass) { c.Parameters = map[string]string{"a": "b"} }, "parameters: Forbidden: updates to parameters are forbidden."),
		change("expansion", func(c *storagev1.StorageClass) { c.AllowVolumeExpansion = ptr.To(true) }),
	)
}

func TestCSI(t *testing.T) {
	driver := checkstest.Change[*storagev1.CSIDriver]
	r := checkstest.Find(t, Resources(), "csidrivers")
	valid := checkstest.Parse[*storagev1.CSIDriver](t, r, "metadata: {name: disk.example.com}")
	if s := valid.Spec; !*s.AttachRequired || *s.PodInfoOnMount || s.VolumeLifecycleModes[0] != storagev1.VolumeLifecyclePersistent {
		t.Errorf("wrong defaults: %+v", s)
	}
	checkstest.Create(t, r, valid,
		driver("tokens", func(d *storagev1.CSIDriver) {
			d.Spec.TokenRequests = []storagev1.TokenRequest{{Audience: "a", ExpirationSeconds: ptr.To[int64](1)}, {Audience: "a"}}
		}, "spec.tokenRequests[0].expirationSeconds: Invalid value: may not specify a duration less than 10 minutes", "spec.tokenRequests[1].audience: Duplicate value: "),
	)
	node := checkstest.Change[*storagev1.CSINode]
	r = checkstest.Find(t, Resources(), "csinodes")
	registered := checkstest.Parse[*storagev1.CSINode](t, r, "metadata: {name: n1}\nspec: {drivers: [{name: disk.example.com, nodeID: '1', topologyKeys: [example.com/zone]}]}")
	checkstest.Create(t, r, registered,
		node("no id", func(n *storagev1.CSINode) { n.Spec.Drivers[0].NodeID = "" }, "spec.drivers[0].nodeID: Required value: "),
		node("twice", func(n *storagev1.CSINode) { n.Spec.Drivers = append(n.Spec.Drivers, n.Spec.Drivers[0]) }, "spec.drivers[1].name: Duplicate value: "),
	)
	checkstest.Update(t, r, registered,
		node("id", func(n *storagev1.CSINode) { n.Spec.Drivers[0].NodeID = "2" }, "CSINodeDriver: Invalid value: field is immutable"),
		node("count", func(n *storagev1.CSINode) {
			n.Spec.Drivers[0].Allocatable = &storagev1.VolumeNodeResources{Count: ptr.To[int32](3)}
		}),
	)
}

func TestVolumes(t *testing.T) {
	attachment := checkstest.Change[*storagev1.VolumeAttachment]
	r := checkstest.Find(t, Resources(), "volumeattachments")
	valid := checkstest.Parse[*storagev1.VolumeAttachment](t, r, "metadata: {name: a}\nspec: {attacher: disk.example.com, nodeName: n1, source: {persistentVolumeName: pv}}")
	checkstest.Create(t, r, valid,
		attachment("no source", func(a *storagev1.VolumeAttachment) { a.Spec.Source.PersistentVolumeName = nil },
			"spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
	)
	checkstest.Update(t, r, valid,
		attachment("node", func(a *storagev1.VolumeAttachment) { a.Spec.NodeName = "n2" }, "spec: Invalid value: field is immutable"),
	)
	class := checkstest.Change[*storagev1.VolumeAttributesClass]
	r = checkstest.Find(t, Resources(), "volumeattributesclasses")
	gold := checkstest.Parse[*storagev1.VolumeAttributesClass](t, r, "metadata: {name: gold}\ndriverName: disk.example.com\nparameters: {iops: '9'}")
	checkstest.Create(t, r, gold,
		class("no parameters", func(c *storagev1.VolumeAttributesClass) { c.Parameters = nil }, "parameters: Required value: must contain at least one key/value pair"),
	)
	checkstest.Update(t, r, gold,
		class("driver", func(c *storagev1.VolumeAttributesClass) { c.DriverName = "b.example.com" }, "driverName: Forbidden: updates to driverName are forbidden."),
	)
}
