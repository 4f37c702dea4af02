package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// podVolumes checks the pod's volumes and remembers the good ones.
func (c *podCheck) podVolumes(at *field.Path) {
	volumes := c.spec.Volumes
	c.volumes = make(map[string]*corev1.VolumeSource, len(volumes))
	for i := range volumes {
		v, at := &volumes[i], at.Index(i)
		before := c.count()
		c.oneVolumeSource(at, c.podSources(v))
		// The claim that an ephemeral volume becomes is named after both.
		if v.Ephemeral != nil && c.isPod && c.meta.Name != "" && v.Name != "" {
			claim := c.meta.Name + "-" + v.Name
			for _, m := range apivalidation.NameIsDNSSubdomain(claim, false) {
				c.invalid(at.Child("name"), v.Name, fmt.Sprintf("PVC name %q: %v", claim, m))
			}
		}
		if s := v.ISCSI; s != nil && iscsiTooLong(v.Name, s.TargetPortal, s.InitiatorName) {
			c.invalid(at.Child("name"), v.Name, iscsiLength)
		}
		if v.Name == "" {
			c.required(at.Child("name"))
		} else {
			c.dnsLabel(at.Child("name"), v.Name)
		}
		if c.volumes[v.Name] != nil {
			c.duplicate(at.Child("name"), v.Name)
		}
		if c.count() == before {
			c.volumes[v.Name] = &v.VolumeSource
		}
		if v.PersistentVolumeClaim != nil && c.createsClaim(v.PersistentVolumeClaim.ClaimName) {
			c.invalid(at.Child("persistentVolumeClaim", "claimName"), v.PersistentVolumeClaim.ClaimName,
				"must not reference a PVC that gets created for an ephemeral volume")
		}
	}
}

// createsClaim tells whether one of the pod's volumes is made with the pod, as
// a claim of that name.
func (c *podCheck) createsClaim(name string) bool {
	if !c.isPod || c.meta.Name == "" {
		return false
	}
	for i := range c.spec.Volumes {
		if v := &c.spec.Volumes[i]; v.Ephemeral != nil && c.meta.Name+"-"+v.Name == name {
			return true
		}
	}
	return false
}

func (c *podCheck) podSources(v *corev1.Volume) []volumeSource {
	s := &v.VolumeSource
	return []volumeSource{
		{field: "emptyDir", set: s.EmptyDir != nil, check: func(at *field.Path) {
			if limit := s.EmptyDir.SizeLimit; limit != nil && limit.Sign() < 0 {
				c.forbidden(at.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")
			}
		}},
		{field: "hostPath", set: s.HostPath != nil, check: func(at *field.Path) { c.hostPath(at, s.HostPath) }},
		{field: "gitRepo", set: s.GitRepo != nil, check: func(at *field.Path) {
			c.requiredText(at, "repository", s.GitRepo.Repository)
			c.localPath(at.Child("directory"), s.GitRepo.Directory)
		}},
		{field: "gcePersistentDisk", at: "persistentDisk", set: s.GCEPersistentDisk != nil, check: func(at *field.Path) { c.gcePersistentDisk(at, s.GCEPersistentDisk) }},
		{field: "awsElasticBlockStore", set: s.AWSElasticBlockStore != nil, check: func(at *field.Path) { c.awsElasticBlockStore(at, s.AWSElasticBlockStore) }},
		{field: "secret", set: s.Secret != nil, check: func(at *field.Path) {
			c.requiredText(at, "secretName", s.Secret.SecretName)
			c.keyFiles(at, s.Secret.DefaultMode, s.Secret.Items)
		}},
		{field: "nfs", set: s.NFS != nil, check: func(at *field.Path) { c.nfs(at, s.NFS) }},
		{field: "iscsi", set: s.ISCSI != nil, check: func(at *field.Path) {
			c.iscsi(at, iscsi{unknown: "must be valid format starting with iqn, eui, or naa", portal: s.ISCSI.TargetPortal, iqn: s.ISCSI.IQN, lun: s.ISCSI.Lun, initiatorName: s.ISCSI.InitiatorName,
				chap: s.ISCSI.DiscoveryCHAPAuth || s.ISCSI.SessionCHAPAuth, secret: s.ISCSI.SecretRef != nil})
		}},
		{field: "glusterfs", set: s.Glusterfs != nil, check: func(at *field.Path) {
			c.requiredText(at, "endpoints", s.Glusterfs.EndpointsName, "path", s.Glusterfs.Path)
		}},
		{field: "flocker", set: s.Flocker != nil, check: func(at *field.Path) { c.flocker(at, s.Flocker) }},
		{field: "persistentVolumeClaim", set: s.PersistentVolumeClaim != nil, check: func(at *field.Path) {
			c.requiredText(at, "claimName", s.PersistentVolumeClaim.ClaimName)
		}},
		{field: "rbd", set: s.RBD != nil, check: func(at *field.Path) { c.rbd(at, s.RBD.CephMonitors, s.RBD.RBDImage) }},
		{field: "cinder", set: s.Cinder != nil, check: func(at *field.Path) {
			c.requiredText(at, "volumeID", s.Cinder.VolumeID)
			if ref := s.Cinder.SecretRef; ref != nil {
				c.requiredText(at.Child("secretRef"), "name", ref.Name)
			}
		}},
		{field: "cephFS", at: "cephfs", set: s.CephFS != nil, check: func(at *field.Path) { c.monitors(at, s.CephFS.Monitors) }},
		{field: "quobyte", set: s.Quobyte != nil, check: func(at *field.Path) { c.quobyte(at, s.Quobyte) }},
		{field: "downwarAPI", at: "downwardAPI", set: s.DownwardAPI != nil, check: func(at *field.Path) {
			c.fileMode(at.Child("defaultMode"), s.DownwardAPI.DefaultMode)
			for i := range s.DownwardAPI.Items {
				c.downwardFile(at, &s.DownwardAPI.Items[i])
			}
		}},
		{field: "fc", set: s.FC != nil, check: func(at *field.Path) { c.fibreChannel(at, s.FC) }},
		{field: "flexVolume", set: s.FlexVolume != nil, check: func(at *field.Path) { c.flexVolume(at, s.FlexVolume.Driver, s.FlexVolume.Options) }},
		{field: "configMap", set: s.ConfigMap != nil, check: func(at *field.Path) {
			c.requiredText(at, "name", s.ConfigMap.Name)
			c.keyFiles(at, s.ConfigMap.DefaultMode, s.ConfigMap.Items)
		}},
		{field: "azureFile", set: s.AzureFile != nil, check: func(at *field.Path) {
			c.requiredText(at, "secretName", s.AzureFile.SecretName, "shareName", s.AzureFile.ShareName)
		}},
		{field: "vsphereVolume", set: s.VsphereVolume != nil, check: func(at *field.Path) { c.requiredText(at, "volumePath", s.VsphereVolume.VolumePath) }},
		{field: "photonPersistentDisk", set: s.PhotonPersistentDisk != nil, check: func(at *field.Path) { c.requiredText(at, "pdID", s.PhotonPersistentDisk.PdID) }},
		{field: "portworxVolume", set: s.PortworxVolume != nil, check: func(at *field.Path) { c.requiredText(at, "volumeID", s.PortworxVolume.VolumeID) }},
		{field: "azureDisk", set: s.AzureDisk != nil, check: func(at *field.Path) { c.azureDisk(at, s.AzureDisk) }},
		{field: "storageos", set: s.StorageOS != nil, check: func(at *field.Path) {
			c.storageOS(at, s.StorageOS.VolumeName, s.StorageOS.VolumeNamespace)
			if ref := s.StorageOS.SecretRef; ref != nil {
				c.requiredText(at.Child("secretRef"), "name", ref.Name)
			}
		}},
		{field: "projected", set: s.Projected != nil, check: func(at *field.Path) { c.projected(at, s.Projected) }},
		{field: "scaleIO", set: s.ScaleIO != nil, check: func(at *field.Path) {
			c.requiredText(at, "gateway", s.ScaleIO.Gateway, "system", s.ScaleIO.System, "volumeName", s.ScaleIO.VolumeName)
		}},
		{field: "csi", set: s.CSI != nil, check: func(at *field.Path) {
			c.csiDriverName(at.Child("driver"), s.CSI.Driver)
			if ref := s.CSI.NodePublishSecretRef; ref != nil {
				c.requiredText(at.Child("nodePublishSecretRef"), "name", ref.Name)
				if ref.Name != "" {
					c.className(at.Child("name"), ref.Name)
				}
			}
		}},
		{field: "ephemeral", set: s.Ephemeral != nil, check: func(at *field.Path) {
			c.claimTemplate(at.Child("volumeClaimTemplate"), v.Ephemeral.VolumeClaimTemplate)
		}},
		{field: "image", set: s.Image != nil, check: func(at *field.Path) {
			if c.isPod {
				c.requiredText(at, "reference", s.Image.Reference)
			}
			c.pullPolicy(at.Child("pullPolicy"), s.Image.PullPolicy)
		}},
	}
}

func (c *podCheck) keyFiles(at *field.Path, mode *int32, items []corev1.KeyToPath) {
	c.fileMode(at.Child("defaultMode"), mode)
	for i := range items {
		c.keyFile(at.Child("items").Index(i), &items[i])
	}
}

func (c *podCheck) keyFile(at *field.Path, item *corev1.KeyToPath) {
	c.requiredText(at, "key", item.Key, "path", item.Path)
	c.fileName(at.Child("path"), item.Path)
	c.fileMode(at.Child("mode"), item.Mode)
}

func (c *podCheck) downwardFile(at *field.Path, f *corev1.DownwardAPIVolumeFile) {
	c.requiredText(at, "path", f.Path)
	c.fileName(at.Child("path"), f.Path)
	switch {
	case f.FieldRef != nil:
		c.fieldRef(at.Child("fieldRef"), f.FieldRef, "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")
		if f.ResourceFieldRef != nil {
			c.invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
		}
	case f.ResourceFieldRef != nil:
		c.resourceFieldRef(at.Child("resourceFieldRef"), f.ResourceFieldRef, true)
	default:
		c.missing(at, "one of fieldRef and resourceFieldRef is required")
	}
	c.fileMode(at.Child("mode"), f.Mode)
}

// projected checks a volume of files from several sources, whose paths must
// not meet.
func (c *podCheck) projected(at *field.Path, s *corev1.ProjectedVolumeSource) {
	c.fileMode(at.Child("defaultMode"), s.DefaultMode)
	paths := sets.New[string]()
	file := func(path, bad string) {
		if path != "" && paths.Has(path) {
			c.invalid(at, bad, "conflicting duplicate paths")
		}
		paths.Insert(path)
	}
	keys := func(at *field.Path, name string, items []corev1.KeyToPath) {
		c.requiredText(at, "name", name)
		for i := range items {
			c.keyFile(at.Child("items").Index(i), &items[i])
			file(items[i].Path, name)
		}
	}
	for i := range s.Sources {
		source, item := &s.Sources[i], at.Child("sources").Index(i)
		found := 0
		if source.Secret != nil {
			found++
			keys(item.Child("secret"), source.Secret.Name, source.Secret.Items)
		}
		if source.ConfigMap != nil {
			found++
			keys(item.Child("configMap"), source.ConfigMap.Name, source.ConfigMap.Items)
		}
		if source.DownwardAPI != nil {
			found++
			for j := range source.DownwardAPI.Items {
				f := &source.DownwardAPI.Items[j]
				c.downwardFile(item.Child("downwardAPI"), f)
				file(f.Path, f.Path)
			}
		}
		if t := source.ServiceAccountToken; t != nil {
			found++
			seconds, life := ptr.Deref(t.ExpirationSeconds, 0), item.Child("serviceAccountToken", "expirationSeconds")
			if seconds < 600 {
				c.invalid(life, seconds, "may not specify a duration less than 10 minutes")
			}
			if seconds > 1<<32 {
				c.invalid(life, seconds, "may not specify a duration larger than 2^32 seconds")
			}
			c.requiredText(at, "path", t.Path)
			c.fileName(at.Child("path"), t.Path)
		}
		if b := source.ClusterTrustBundle; b != nil {
			found++
			at := item.Child("clusterTrustBundle")
			c.trustBundle(at, b)
			c.requiredText(at, "path", b.Path)
			c.fileName(at.Child("path"), b.Path)
			file(b.Path, b.Path)
		}
		if source.PodCertificate != nil {
			found++
			c.podCertificate(item.Child("podCertificate"), source.PodCertificate, file)
		}
		if found > 1 {
			c.forbidden(item, "may not specify more than 1 volume type per source")
		}
	}
}

func (c *podCheck) trustBundle(at *field.Path, b *corev1.ClusterTrustBundleProjection) {
	switch {
	case b.Name != nil && b.SignerName != nil:
		c.invalid(at, b, "only one of name and signerName may be used")
	case b.Name != nil:
		if *b.Name == "" {
			c.missing(at.Child("name"), "must be a valid object name")
		}
		if b.LabelSelector != nil {
			c.invalid(at.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified")
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			c.missing(at.Child("signerName"), "must be a valid signer name")
		}
		c.add(metav1validation.ValidateLabelSelector(b.LabelSelector, metav1validation.LabelSelectorValidationOptions{}, at.Child("labelSelector")))
	default:
		c.missing(at, "either name or signerName must be specified")
	}
}

func (c *podCheck) podCertificate(at *field.Path, s *corev1.PodCertificateProjection, file func(path, bad string)) {
	c.requiredText(at, "signerName", s.SignerName)
	anyOf(&c.problems, at.Child("keyType"), &s.KeyType, "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096")
	const hour, quarter = 3600, 91 * 24 * 3600
	if life := s.MaxExpirationSeconds; life != nil && (*life < hour || *life > quarter) {
		c.invalid(at.Child("maxExpirationSeconds"), *life, fmt.Sprintf("must be between %d and %d", hour, quarter))
	}
	if s.CredentialBundlePath == "" && s.KeyPath == "" && s.CertificateChainPath == "" {
		c.missing(at, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath")
	}
	for _, f := range []struct{ name, path string }{
		{"credentialBundlePath", s.CredentialBundlePath}, {"keyPath", s.KeyPath}, {"certificateChainPath", s.CertificateChainPath},
	} {
		if f.path != "" {
			c.fileName(at.Child(f.name), f.path)
			file(f.path, f.path)
		}
	}
}

// claimTemplate checks what a volume that is made with the pod is made from.
func (c *podCheck) claimTemplate(at *field.Path, t *corev1.PersistentVolumeClaimTemplate) {
	if t == nil {
		c.required(at)
		return
	}
	c.add(ValidateTemplateMetadata(&t.ObjectMeta, at.Child("metadata")))
	c.add(ValidatePersistentVolumeClaimSpec(&t.Spec, at.Child("spec")))
}
