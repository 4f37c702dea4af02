package core

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/unversioned"
)

func persistentVolumes() *apis.Resource {
	return apis.Of[*corev1.PersistentVolume]{
		Names:            apis.Names{Resource: "persistentvolumes", Singular: "persistentvolume", Kind: "PersistentVolume", ShortNames: []string{"pv"}},
		Version:          "v1",
		Warnings:         volumeWarnings,
		New:              func() *corev1.PersistentVolume { return &corev1.PersistentVolume{} },
		NewList:          func() runtime.Object { return &corev1.PersistentVolumeList{} },
		ReturnDeleted:    true,
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsNew, apis.AsNew},
		Default:          defaultPersistentVolume,
		PrepareCreate: func(_ context.Context, pv *corev1.PersistentVolume) {
			now := metav1.Now()
			pv.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: &now}
		},
		PrepareStatusUpdate: func(_ context.Context, pv, old *corev1.PersistentVolume) {
			now, was := &pv.Status, &old.Status
			given := now.LastPhaseTransitionTime != nil && !now.LastPhaseTransitionTime.Equal(was.LastPhaseTransitionTime)
			switch {
			case given:
			case now.Phase == was.Phase:
				now.LastPhaseTransitionTime = was.LastPhaseTransitionTime
			default:
				now.LastPhaseTransitionTime = ptr.To(metav1.Now())
			}
		},
		Validate: func(_ context.Context, pv *corev1.PersistentVolume) field.ErrorList {
			return validatePersistentVolume(pv)
		},
		ValidateUpdate: validatePersistentVolumeUpdate,
		HasStatus:      true,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Capacity", corev1.PersistentVolumeSpec{}.SwaggerDoc()["capacity"]),
			columns.String("Access Modes", corev1.PersistentVolumeSpec{}.SwaggerDoc()["accessModes"]),
			columns.String("Reclaim Policy", corev1.PersistentVolumeSpec{}.SwaggerDoc()["persistentVolumeReclaimPolicy"]),
			columns.String("Status", corev1.PersistentVolumeStatus{}.SwaggerDoc()["phase"]),
			columns.String("Claim", corev1.PersistentVolumeSpec{}.SwaggerDoc()["claimRef"]),
			columns.String("StorageClass", "StorageClass of the pv"),
			columns.String("VolumeAttributesClass", "VolumeAttributesClass of the pv"),
			columns.String("Reason", corev1.PersistentVolumeStatus{}.SwaggerDoc()["reason"]),
			columns.AgeColumn(),
			columns.Wide(columns.String("VolumeMode", corev1.PersistentVolumeSpec{}.SwaggerDoc()["volumeMode"])),
		},
		Cells: persistentVolumeCells,
	}.Resource()
}

func persistentVolumeCells(pv *corev1.PersistentVolume) []any {
	claim := ""
	if ref := pv.Spec.ClaimRef; ref != nil {
		claim = ref.Namespace + "/" + ref.Name
	}
	phase := string(pv.Status.Phase)
	if pv.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	class := firstOf(pv.Annotations[corev1.BetaStorageClassAnnotation], pv.Spec.StorageClassName)
	capacity := pv.Spec.Capacity[corev1.ResourceStorage]
	return []any{pv.Name, capacity.String(), accessModesText(pv.Spec.AccessModes), string(pv.Spec.PersistentVolumeReclaimPolicy),
		phase, claim, class, ptr.Deref(pv.Spec.VolumeAttributesClassName, unset), pv.Status.Reason,
		columns.Age(pv.CreationTimestamp), string(ptr.Deref(pv.Spec.VolumeMode, unset))}
}

const unset = "<unset>"

func accessModesText(modes []corev1.PersistentVolumeAccessMode) string {
	var short []string
	for _, m := range []struct {
		mode corev1.PersistentVolumeAccessMode
		text string
	}{
		{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"},
	} {
		if contains(modes, m.mode) {
			short = append(short, m.text)
		}
	}
	return strings.Join(short, ",")
}

func defaultPersistentVolume(pv *corev1.PersistentVolume) {
	spec := &pv.Spec
	roundUp(spec.Capacity)
	if pv.Status.Phase == "" {
		pv.Status.Phase = corev1.VolumePending
	}
	if spec.PersistentVolumeReclaimPolicy == "" {
		spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	}
	if spec.VolumeMode == nil {
		spec.VolumeMode = ptr.To(corev1.PersistentVolumeFilesystem)
	}
	if s := spec.HostPath; s != nil && s.Type == nil {
		s.Type = ptr.To(corev1.HostPathUnset)
	}
	if s := spec.RBD; s != nil {
		defaultTo(&s.RBDPool, "rbd")
		defaultTo(&s.RadosUser, "admin")
		defaultTo(&s.Keyring, "/etc/ceph/keyring")
	}
	if s := spec.ISCSI; s != nil {
		defaultTo(&s.ISCSIInterface, "default")
	}
	if s := spec.AzureDisk; s != nil {
		defaultAzureDisk(s)
	}
	if s := spec.ScaleIO; s != nil {
		defaultTo(&s.StorageMode, "ThinProvisioned")
		defaultTo(&s.FSType, "xfs")
	}
}

func validatePersistentVolume(pv *corev1.PersistentVolume) field.ErrorList {
	var p problems
	spec, at := &pv.Spec, field.NewPath("spec")
	if len(spec.AccessModes) == 0 {
		p.required(at.Child("accessModes"))
	}
	p.accessModes(at.Child("accessModes"), spec.AccessModes)
	capacity := at.Child("capacity")
	if len(spec.Capacity) == 0 {
		p.required(capacity)
	}
	if _, ok := spec.Capacity[corev1.ResourceStorage]; !ok || len(spec.Capacity) > 1 {
		p.one(field.NotSupported(capacity, spec.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, name := range sortedNames(spec.Capacity) {
		q, at := spec.Capacity[name], capacity.Key(string(name))
		if q.Value() < 0 {
			p.invalid(at, q.Value(), "must be a valid resource quantity")
		}
		p.positive(at, q)
	}
	anyOf(&p, at.Child("persistentVolumeReclaimPolicy"), notEmpty(spec.PersistentVolumeReclaimPolicy),
		corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)
	if affinity := spec.NodeAffinity; affinity != nil {
		if affinity.Required == nil {
			p.missing(at.Child("nodeAffinity", "required"), "must specify required node constraints")
		} else {
			p.nodeSelector(at.Child("nodeAffinity", "required"), affinity.Required)
		}
	}
	p.oneVolumeSource(at, p.persistentSources(pv))
	if spec.HostPath != nil && path.Clean(spec.HostPath.Path) == "/" && spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		p.forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'")
	}
	if spec.StorageClassName != "" {
		p.className(at.Child("storageClassName"), spec.StorageClassName)
	}
	anyOf(&p, at.Child("volumeMode"), spec.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	if class := spec.VolumeAttributesClassName; class != nil {
		if *class == "" {
			p.missing(at.Child("volumeAttributesClassName"), "an empty string is disallowed")
		} else {
			p.className(at.Child("volumeAttributesClassName"), *class)
		}
		if spec.CSI == nil {
			p.missing(at.Child("csi"), "has to be specified when using volumeAttributesClassName")
		}
	}
	return p.list()
}

// notEmpty is a pointer to value, or nil if it is empty.
func notEmpty[T ~string](value T) *T {
	if value == "" {
		return nil
	}
	return &value
}

func (p *problems) persistentSources(pv *corev1.PersistentVolume) []volumeSource {
	s := &pv.Spec.PersistentVolumeSource
	return []volumeSource{
		{field: "hostPath", set: s.HostPath != nil, check: func(at *field.Path) { p.hostPath(at, s.HostPath) }},
		{field: "gcePersistentDisk", at: "persistentDisk", set: s.GCEPersistentDisk != nil, check: func(at *field.Path) { p.gcePersistentDisk(at, s.GCEPersistentDisk) }},
		{field: "awsElasticBlockStore", set: s.AWSElasticBlockStore != nil, check: func(at *field.Path) { p.awsElasticBlockStore(at, s.AWSElasticBlockStore) }},
		{field: "glusterfs", set: s.Glusterfs != nil, check: func(at *field.Path) {
			p.requiredText(at, "endpoints", s.Glusterfs.EndpointsName, "path", s.Glusterfs.Path)
			if ns := s.Glusterfs.EndpointsNamespace; ns != nil && *ns == "" {
				p.invalid(at.Child("endpointsNamespace"), *ns, "if the endpointnamespace is set, it must be a valid namespace name")
			} else if ns != nil {
				p.dnsLabel(at.Child("endpointsNamespace"), *ns)
			}
		}},
		{field: "flocker", set: s.Flocker != nil, check: func(at *field.Path) { p.flocker(at, s.Flocker) }},
		{field: "nfs", set: s.NFS != nil, check: func(at *field.Path) { p.nfs(at, s.NFS) }},
		{field: "rbd", set: s.RBD != nil, check: func(at *field.Path) { p.rbd(at, s.RBD.CephMonitors, s.RBD.RBDImage) }},
		{field: "quobyte", set: s.Quobyte != nil, check: func(at *field.Path) { p.quobyte(at, s.Quobyte) }},
		{field: "cephFS", at: "cephfs", set: s.CephFS != nil, check: func(at *field.Path) { p.monitors(at, s.CephFS.Monitors) }},
		{field: "iscsi", set: s.ISCSI != nil, check: func(at *field.Path) {
			if iscsiTooLong(pv.Name, s.ISCSI.TargetPortal, s.ISCSI.InitiatorName) {
				p.invalid(at.Child("targetportal"), s.ISCSI.TargetPortal, iscsiLength)
			}
			p.iscsi(at, iscsi{unknown: "must be valid format", portal: s.ISCSI.TargetPortal, iqn: s.ISCSI.IQN, lun: s.ISCSI.Lun, initiatorName: s.ISCSI.InitiatorName,
				chap: s.ISCSI.DiscoveryCHAPAuth || s.ISCSI.SessionCHAPAuth, secret: s.ISCSI.SecretRef != nil})
			if s.ISCSI.SecretRef != nil {
				p.requiredText(at.Child("secretRef"), "name", s.ISCSI.SecretRef.Name)
			}
		}},
		{field: "cinder", set: s.Cinder != nil, check: func(at *field.Path) {
			p.requiredText(at, "volumeID", s.Cinder.VolumeID)
			if ref := s.Cinder.SecretRef; ref != nil {
				p.requiredText(at.Child("secretRef"), "name", ref.Name, "namespace", ref.Namespace)
			}
		}},
		{field: "fc", set: s.FC != nil, check: func(at *field.Path) { p.fibreChannel(at, s.FC) }},
		{field: "flexVolume", beside: true, set: s.FlexVolume != nil, check: func(at *field.Path) { p.flexVolume(at, s.FlexVolume.Driver, s.FlexVolume.Options) }},
		{field: "azureFile", set: s.AzureFile != nil, check: func(at *field.Path) {
			p.requiredText(at, "secretName", s.AzureFile.SecretName, "shareName", s.AzureFile.ShareName)
			if ns := s.AzureFile.SecretNamespace; ns != nil {
				p.requiredText(at, "secretNamespace", *ns)
			}
		}},
		{field: "vsphereVolume", set: s.VsphereVolume != nil, check: func(at *field.Path) { p.requiredText(at, "volumePath", s.VsphereVolume.VolumePath) }},
		{field: "photonPersistentDisk", set: s.PhotonPersistentDisk != nil, check: func(at *field.Path) { p.requiredText(at, "pdID", s.PhotonPersistentDisk.PdID) }},
		{field: "portworxVolume", set: s.PortworxVolume != nil, check: func(at *field.Path) { p.requiredText(at, "volumeID", s.PortworxVolume.VolumeID) }},
		{field: "azureDisk", set: s.AzureDisk != nil, check: func(at *field.Path) { p.azureDisk(at, s.AzureDisk) }},
		{field: "scaleIO", set: s.ScaleIO != nil, check: func(at *field.Path) {
			p.requiredText(at, "gateway", s.ScaleIO.Gateway, "system", s.ScaleIO.System, "volumeName", s.ScaleIO.VolumeName)
		}},
		{field: "local", set: s.Local != nil, check: func(at *field.Path) {
			p.requiredText(at, "path", s.Local.Path)
			p.noBacksteps(at.Child("path"), s.Local.Path)
			if pv.Spec.NodeAffinity == nil {
				p.missing(field.NewPath("spec", "nodeAffinity"), "Local volume requires node affinity")
			}
		}},
		{field: "storageos", set: s.StorageOS != nil, check: func(at *field.Path) {
			p.storageOS(at, s.StorageOS.VolumeName, s.StorageOS.VolumeNamespace)
			if ref := s.StorageOS.SecretRef; ref != nil {
				p.requiredText(at.Child("secretRef"), "name", ref.Name, "namespace", ref.Namespace)
			}
		}},
		{field: "csi", set: s.CSI != nil, check: func(at *field.Path) {
			p.csiDriverName(at.Child("driver"), s.CSI.Driver)
			p.requiredText(at, "volumeHandle", s.CSI.VolumeHandle)
			p.secretReference(at.Child("controllerPublishSecretRef"), s.CSI.ControllerPublishSecretRef)
			p.secretReference(at.Child("controllerExpandSecretRef"), s.CSI.ControllerExpandSecretRef)
			p.secretReference(at.Child("nodePublishSecretRef"), s.CSI.NodePublishSecretRef)
			p.secretReference(at.Child("nodeExpandSecretRef"), s.CSI.NodeExpandSecretRef)
		}},
	}
}

func (p *problems) rbd(at *field.Path, monitors []string, image string) {
	p.monitors(at, monitors)
	p.requiredText(at, "image", image)
}

func (p *problems) monitors(at *field.Path, monitors []string) {
	if len(monitors) == 0 {
		p.required(at.Child("monitors"))
	}
}

func (p *problems) secretReference(at *field.Path, ref *corev1.SecretReference) {
	if ref == nil {
		return
	}
	p.requiredText(at, "name", ref.Name, "namespace", ref.Namespace)
	if ref.Name != "" {
		p.dnsSubdomain(at.Child("name"), ref.Name)
	}
	if ref.Namespace != "" {
		p.dnsLabel(at.Child("namespace"), ref.Namespace)
	}
}

func validatePersistentVolumeUpdate(_ context.Context, pv, old *corev1.PersistentVolume) field.ErrorList {
	// Like upstream, as a volume and then as a change of one.
	content := tolerate(validatePersistentVolume(pv), func() field.ErrorList { return validatePersistentVolume(old) })
	p := problems(slices.Concat(content, content))
	now, was := pv.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource
	if now.CSI != nil && was.CSI != nil && was.CSI.ControllerExpandSecretRef == nil {
		// It may be set once, for volumes made before drivers could expand.
		csi := *now.CSI
		csi.ControllerExpandSecretRef = nil
		now.CSI = &csi
	}
	if !apiequality.Semantic.DeepEqual(now, was) {
		p.forbidden(field.NewPath("spec", "persistentvolumesource"),
			fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", unversioned.Diff(was, now)))
	}
	p.immutable(field.NewPath("volumeMode"), pv.Spec.VolumeMode, old.Spec.VolumeMode)
	if old.Spec.NodeAffinity != nil && !apiequality.Semantic.DeepEqual(pv.Spec.NodeAffinity, withPresentLabels(old.Spec.NodeAffinity, pv.Spec.NodeAffinity)) {
		p.invalid(field.NewPath("nodeAffinity"), pv.Spec.NodeAffinity, apivalidation.FieldImmutableErrorMsg+", except for updating from beta label to GA")
	}
	if old.Spec.VolumeAttributesClassName != nil && pv.Spec.VolumeAttributesClassName == nil {
		p.forbidden(field.NewPath("spec", "volumeAttributesClassName"), "update from non-nil value to nil is forbidden")
	}
	return p.list()
}

// withPresentLabels returns old with node labels by their present names where
// now has them.
func withPresentLabels(old, now *corev1.VolumeNodeAffinity) *corev1.VolumeNodeAffinity {
	if old.Required == nil || now == nil || now.Required == nil {
		return old
	}
	present := map[string]string{
		corev1.LabelFailureDomainBetaZone:   corev1.LabelTopologyZone,
		corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
		"beta.kubernetes.io/os":             corev1.LabelOSStable,
		"beta.kubernetes.io/arch":           corev1.LabelArchStable,
		corev1.LabelInstanceType:            corev1.LabelInstanceTypeStable,
	}
	old = old.DeepCopy()
	for i := range min(len(old.Required.NodeSelectorTerms), len(now.Required.NodeSelectorTerms)) {
		was, now := old.Required.NodeSelectorTerms[i].MatchExpressions, now.Required.NodeSelectorTerms[i].MatchExpressions
		for j := range min(len(was), len(now)) {
			if now[j].Key == present[was[j].Key] {
				was[j].Key = now[j].Key
			}
		}
	}
	return old
}
