package storage

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

func zones(names ...string) corev1.TopologySelectorTerm {
	return corev1.TopologySelectorTerm{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: "zone", Values: names}}}
}

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
		change("binding", func(c *storagev1.StorageClass) { c.VolumeBindingMode = ptr.To(storagev1.VolumeBindingMode("")) },
			`volumeBindingMode: Unsupported value: supported values: "Immediate", "WaitForFirstConsumer"`),
		change("parameters", func(c *storagev1.StorageClass) {
			c.Parameters = map[string]string{"": strings.Repeat("x", 1<<18), "a": "b"}
		},
			"parameters: Invalid value: field can not be empty.", "parameters: Too long: may not be more than 262144 bytes"),
		change("many parameters", func(c *storagev1.StorageClass) {
			c.Parameters = map[string]string{}
			for i := range 513 {
				c.Parameters[strconv.Itoa(i)] = ""
			}
		}, "parameters: Too long: may not be more than 512 bytes"),
		change("topologies", func(c *storagev1.StorageClass) {
			c.AllowedTopologies = []corev1.TopologySelectorTerm{zones("a", "b"), zones("a"), zones("b", "a"), zones(), zones("c", "c"), {}}
			c.AllowedTopologies[1].MatchLabelExpressions = append(c.AllowedTopologies[1].MatchLabelExpressions, zones("c").MatchLabelExpressions...)
		}, "allowedTopologies[1].matchLabelExpressions[1].key: Duplicate value: ", "allowedTopologies[2].matchLabelExpressions: Duplicate value: ",
			"allowedTopologies[3].matchLabelExpressions[0].values: Required value: ", "allowedTopologies[4].matchLabelExpressions[0].values[1]: Duplicate value: ",
			"allowedTopologies[4].matchLabelExpressions: Duplicate value: ", "allowedTopologies[5].matchLabelExpressions: Duplicate value: ", "allowedTopologies[5].matchLabelExpressions: Duplicate value: ", "allowedTopologies[5].matchLabelExpressions: Duplicate value: ", "allowedTopologies[5].matchLabelExpressions: Duplicate value: ", "allowedTopologies[5].matchLabelExpressions: Duplicate value: ", "allowedTopologies[5].matchLabelExpressions: Duplicate value: "),
	)
	old := valid.DeepCopy()
	old.AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: corev1.LabelFailureDomainBetaZone, Values: []string{"a"}}}}}
	if got := r.Warnings(t.Context(), old, nil); len(got) != 1 ||
		got[0] != `allowedTopologies[0].matchLabelExpressions[0].key: deprecated since v1.17; use "topology.kubernetes.io/zone" instead` {
		t.Errorf("warned of %q", got)
	}
	old.Annotations = map[string]string{"storageclass.beta.kubernetes.io/is-default-class": "true"}
	if got := r.Cells(old)[0]; got != "fast (default)" {
		t.Errorf("the default class of old is shown as %v", got)
	}
	if got := r.Cells(old); !slices.Equal(got[1:5], []any{"example.com/Disk", "Delete", "Immediate", false}) {
		t.Errorf("shown as %v", got)
	}
	checkstest.Update(t, r, valid,
		change("provisioner", func(c *storagev1.StorageClass) { c.Provisioner = "b" }, "provisioner: Invalid value: field is immutable"),
		change("parameters", func(c *storagev1.StorageClass) { c.Parameters = map[string]string{"a": "b"} }, "parameters: Invalid value: field is immutable"),
		change("reclaim", func(c *storagev1.StorageClass) { c.ReclaimPolicy = ptr.To(corev1.PersistentVolumeReclaimRetain) },
			"reclaimPolicy: Invalid value: field is immutable"),
		change("binding", func(c *storagev1.StorageClass) {
			c.VolumeBindingMode = ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)
		},
			"volumeBindingMode: Invalid value: field is immutable"),
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
		driver("long token", func(d *storagev1.CSIDriver) {
			d.Spec.TokenRequests = []storagev1.TokenRequest{{ExpirationSeconds: ptr.To[int64](1<<32 + 1)}}
		}, "spec.tokenRequests[0].expirationSeconds: Invalid value: may not specify a duration larger than 2^32 seconds"),
		driver("secrets", func(d *storagev1.CSIDriver) { d.Spec.ServiceAccountTokenInSecrets = ptr.To(false) },
			"spec.serviceAccountTokenInSecrets: Invalid value: serviceAccountTokenInSecrets is set but no tokenRequests are specified"),
		driver("policy", func(d *storagev1.CSIDriver) { d.Spec.FSGroupPolicy = ptr.To(storagev1.FSGroupPolicy("")) },
			`spec.fsGroupPolicy: Unsupported value: supported values: "File", "None", "ReadWriteOnceWithFSType"`),
		driver("mode", func(d *storagev1.CSIDriver) { d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{"Forever"} },
			`spec.volumeLifecycleModes: Unsupported value: supported values: "Persistent", "Ephemeral"`),
		driver("period", func(d *storagev1.CSIDriver) { d.Spec.NodeAllocatableUpdatePeriodSeconds = ptr.To[int64](9) },
			"spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: must be greater than or equal to 10 seconds"),
		driver("nothing", func(d *storagev1.CSIDriver) { d.Spec = storagev1.CSIDriverSpec{} }, "spec.attachedRequired: Required value: ",
			"spec.podInfoOnMount: Required value: ", "spec.storageCapacity: Required value: ", "spec.seLinuxMount: Required value: "),
	)
	checkstest.Update(t, r, valid,
		driver("attachment", func(d *storagev1.CSIDriver) { *d.Spec.AttachRequired = false }, "spec.attachedRequired: Invalid value: field is immutable"),
		driver("modes", func(d *storagev1.CSIDriver) { d.Spec.VolumeLifecycleModes[0] = "Ephemeral" }, "spec.volumeLifecycleModes: Invalid value: field is immutable"),
		driver("tokens", func(d *storagev1.CSIDriver) { d.Spec.TokenRequests = make([]storagev1.TokenRequest, 1) }),
	)
	gated := valid.DeepCopy()
	gated.Spec.PreventPodSchedulingIfMissing = ptr.To(true)
	kept := gated.DeepCopy()
	r.PrepareUpdate(t.Context(), kept, gated)
	r.PrepareCreate(t.Context(), gated)
	if gated.Spec.PreventPodSchedulingIfMissing != nil || kept.Spec.PreventPodSchedulingIfMissing == nil {
		t.Error("the field of a feature that is off stays, or is lost where it was in use")
	}
	if got := r.Cells(valid); !slices.Equal(got[1:7], []any{true, false, false, "<unset>", false, "Persistent"}) {
		t.Errorf("shown as %v", got)
	}
	valid.Spec.TokenRequests = []storagev1.TokenRequest{{Audience: "a"}, {Audience: "b"}}
	valid.Spec.VolumeLifecycleModes = append(valid.Spec.VolumeLifecycleModes, "Ephemeral")
	if got := r.Cells(valid); !slices.Equal(got[4:7], []any{"a,b", false, "Persistent,Ephemeral"}) {
		t.Errorf("shown as %v", got)
	}
	node := checkstest.Change[*storagev1.CSINode]
	r = checkstest.Find(t, Resources(), "csinodes")
	registered := checkstest.Parse[*storagev1.CSINode](t, r, "metadata: {name: n1}\nspec: {drivers: [{name: disk.example.com, nodeID: '1', topologyKeys: [example.com/zone]}]}")
	checkstest.Create(t, r, registered,
		node("no id", func(n *storagev1.CSINode) { n.Spec.Drivers[0].NodeID = "" }, "spec.drivers[0].nodeID: Required value: "),
		node("long id", func(n *storagev1.CSINode) { n.Spec.Drivers[0].NodeID = strings.Repeat("i", 257) },
			"spec.drivers[0].nodeID: Invalid value: must be 256 characters or less"),
		node("count", func(n *storagev1.CSINode) {
			n.Spec.Drivers[0].Allocatable = &storagev1.VolumeNodeResources{Count: ptr.To[int32](-1)}
		}, "spec.drivers[0].allocatable.count: Invalid value: must be greater than or equal to 0"),
		node("keys", func(n *storagev1.CSINode) { n.Spec.Drivers[0].TopologyKeys = []string{"a", "a"} }, "spec.drivers[0]: Duplicate value: "),
		node("twice", func(n *storagev1.CSINode) { n.Spec.Drivers = append(n.Spec.Drivers, n.Spec.Drivers[0]) }, "spec.drivers[1].name: Duplicate value: "),
	)
	checkstest.Update(t, r, registered,
		node("id", func(n *storagev1.CSINode) { n.Spec.Drivers[0].NodeID = "2" }, "spec.drivers: Invalid value: field is immutable"),
		node("count", func(n *storagev1.CSINode) {
			n.Spec.Drivers[0].Allocatable = &storagev1.VolumeNodeResources{Count: ptr.To[int32](3)}
		}),
	)
}

const (
	notDomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
	inline    = "spec.source.inlineVolumeSpec."
)

func TestStorageCapacity(t *testing.T) {
	type capacity = storagev1.CSIStorageCapacity
	change := checkstest.Change[*capacity]
	r := checkstest.Find(t, Resources(), "csistoragecapacities")
	valid := checkstest.Parse[*capacity](t, r, "metadata: {name: c, namespace: default}\nstorageClassName: fast\ncapacity: 1Gi\nmaximumVolumeSize: -1\nnodeTopology: {matchLabels: {zone: a}}")
	checkstest.Create(t, r, valid,
		change("no class", func(c *capacity) { c.StorageClassName = "" }, "storageClassName: Invalid value: "+notDomain),
		change("less than nothing", func(c *capacity) { c.Capacity = ptr.To(resource.MustParse("-1")) }, "capacity: Invalid value: must be greater than or equal to 0"),
		change("topology", func(c *capacity) {
			c.NodeTopology.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}}
		},
			"nodeTopology.matchExpressions[0].operator: Invalid value: not a valid selector operator"),
	)
	checkstest.Update(t, r, valid,
		change("class", func(c *capacity) { c.StorageClassName = "b" }, "storageClassName: Invalid value: field is immutable"),
		change("topology", func(c *capacity) { c.NodeTopology = nil }, "nodeTopology: Invalid value: field is immutable"),
	)
	old := valid.DeepCopy()
	old.NodeTopology.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: corev1.LabelInstanceType, Operator: "In", Values: []string{"-"}}}
	checkstest.Update(t, r, old, change("as before", func(c *capacity) { c.Capacity = nil }))
	if got := r.Warnings(t.Context(), old, nil); len(got) != 1 ||
		got[0] != `nodeTopology.matchExpressions[0].key: beta.kubernetes.io/instance-type is deprecated since v1.17; use "node.kubernetes.io/instance-type" instead` {
		t.Errorf("warned of %q", got)
	}
}

func TestVolumes(t *testing.T) {
	attachment := checkstest.Change[*storagev1.VolumeAttachment]
	r := checkstest.Find(t, Resources(), "volumeattachments")
	valid := checkstest.Parse[*storagev1.VolumeAttachment](t, r, "metadata: {name: a}\nspec: {attacher: disk.example.com, nodeName: n1, source: {persistentVolumeName: pv}}")
	checkstest.Create(t, r, valid,
		attachment("no source", func(a *storagev1.VolumeAttachment) { a.Spec.Source.PersistentVolumeName = nil },
			"spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
		attachment("empty", func(a *storagev1.VolumeAttachment) { *a.Spec.Source.PersistentVolumeName = "" },
			"spec.source.persistentVolumeName: Required value: must specify non empty persistentVolumeName", "spec.source.persistentVolumeName: Invalid value: "+notDomain),
		attachment("both", func(a *storagev1.VolumeAttachment) { a.Spec.Source.InlineVolumeSpec = &corev1.PersistentVolumeSpec{} },
			"spec.source: Forbidden: must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
		attachment("inline", func(a *storagev1.VolumeAttachment) {
			a.Spec.Source = storagev1.VolumeAttachmentSource{InlineVolumeSpec: &corev1.PersistentVolumeSpec{
				AccessModes:            []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"},
				PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: "v"}},
			}}
		}),
		attachment("bad inline", func(a *storagev1.VolumeAttachment) {
			a.Spec.Source = storagev1.VolumeAttachmentSource{InlineVolumeSpec: &corev1.PersistentVolumeSpec{
				PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/a"}}, StorageClassName: "c",
				PersistentVolumeReclaimPolicy: "Delete", VolumeMode: ptr.To(corev1.PersistentVolumeBlock), ClaimRef: &corev1.ObjectReference{},
			}}
		}, inline+"csi: Required value: has to be specified in the context of inline volumes", inline+"accessModes: Required value: ",
			inline+"storageClassName: Forbidden: may not be specified in the context of inline volumes",
			inline+"claimRef: Forbidden: may not be specified in the context of inline volumes",
			inline+"persistentVolumeReclaimPolicy: Forbidden: may only be Retain in the context of inline volumes",
			inline+"volumeMode: Forbidden: may not specify volumeMode other than Filesystem in the context of inline volumes"),
		attachment("attacher", func(a *storagev1.VolumeAttachment) { a.Spec.Attacher = "-" }, "spec.attacher: Invalid value: "+notDomain),
	)
	old := valid.DeepCopy()
	old.Spec.Attacher = "-"
	checkstest.Update(t, r, old, attachment("as before", func(a *storagev1.VolumeAttachment) { a.Labels = map[string]string{"a": "b"} }))
	checkstest.UpdateStatus(t, r, valid,
		attachment("good", func(a *storagev1.VolumeAttachment) {
			a.Status.AttachError = &storagev1.VolumeError{ErrorCode: ptr.To[int32](13)}
		}),
		attachment("errors", func(a *storagev1.VolumeAttachment) {
			a.Status.AttachError = &storagev1.VolumeError{Message: strings.Repeat("m", 1025)}
			a.Status.DetachError = &storagev1.VolumeError{ErrorCode: ptr.To[int32](-1)}
			a.Status.AttachmentMetadata = map[string]string{"a": strings.Repeat("m", 1<<18)}
		}, "status.attachError.message: Too long: may not be more than 262144 bytes", "status.attachmentMetadata: Too long: may not be more than 262144 bytes",
			"status.detachError.errorCode: Invalid value: must be between 0 and 2147483647, inclusive"),
	)
	if got := r.Cells(valid); !slices.Equal(got[1:5], []any{"disk.example.com", "pv", "n1", false}) {
		t.Errorf("shown as %v", got)
	}
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
