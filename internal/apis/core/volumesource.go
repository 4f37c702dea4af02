package core

import (
	"net"
	"path"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// volumeSource is one of the kinds of volume that a pod or a PersistentVolume
// can have, with the check of its content.
type volumeSource struct {
	field string
	set   bool
	check func(at *field.Path)
	// at is the field that errors inside name where it is not field itself.
	at string
	// beside says that it may stand beside a source before it.
	beside bool
}

// oneVolumeSource checks that exactly one source is set, and that one's
// content.
func (p *problems) oneVolumeSource(at *field.Path, sources []volumeSource) {
	found := false
	for _, s := range sources {
		switch {
		case !s.set:
		case found && !s.beside:
			p.forbidden(at.Child(s.field), "may not specify more than 1 volume type")
		default:
			found = true
			s.check(at.Child(firstOf(s.at, s.field)))
		}
	}
	if !found {
		p.missing(at, "must specify a volume type")
	}
}

// requiredText checks that strings, given as field name and value in turn, are
// not empty.
func (p *problems) requiredText(at *field.Path, namesAndValues ...string) {
	for i := 0; i < len(namesAndValues); i += 2 {
		if namesAndValues[i+1] == "" {
			p.required(at.Child(namesAndValues[i]))
		}
	}
}

// The checks that follow are of sources which pods and PersistentVolumes share.

func (p *problems) hostPath(at *field.Path, s *corev1.HostPathVolumeSource) {
	if s.Path == "" {
		p.required(at.Child("path"))
		return
	}
	p.noBacksteps(at.Child("path"), s.Path)
	anyOf(p, at.Child("type"), s.Type, corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev,
		corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)
}

func (p *problems) partition(at *field.Path, n int32) {
	if n < 0 || n > 255 {
		p.invalid(at.Child("partition"), n, validation.InclusiveRangeError(1, 255))
	}
}

func (p *problems) gcePersistentDisk(at *field.Path, s *corev1.GCEPersistentDiskVolumeSource) {
	p.requiredText(at, "pdName", s.PDName)
	p.partition(at, s.Partition)
}

func (p *problems) awsElasticBlockStore(at *field.Path, s *corev1.AWSElasticBlockStoreVolumeSource) {
	p.requiredText(at, "volumeID", s.VolumeID)
	p.partition(at, s.Partition)
}

func (p *problems) nfs(at *field.Path, s *corev1.NFSVolumeSource) {
	p.requiredText(at, "server", s.Server, "path", s.Path)
	if !path.IsAbs(s.Path) {
		p.invalid(at.Child("path"), s.Path, "must be an absolute path")
	}
}

func (p *problems) flocker(at *field.Path, s *corev1.FlockerVolumeSource) {
	if s.DatasetName == "" && s.DatasetUUID == "" {
		p.missing(at, "one of datasetName and datasetUUID is required")
	}
	if s.DatasetName != "" && s.DatasetUUID != "" {
		p.invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously")
	}
	if strings.Contains(s.DatasetName, "/") {
		p.invalid(at.Child("datasetName"), s.DatasetName, "must not contain '/'")
	}
}

func (p *problems) quobyte(at *field.Path, s *corev1.QuobyteVolumeSource) {
	const pairs = "must be a host:port pair or multiple pairs separated by commas"
	switch {
	case s.Registry == "":
		p.missing(at.Child("registry"), pairs)
	case len(s.Tenant) > 64:
		p.missing(at.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters")
	default:
		for _, pair := range strings.Split(s.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				p.invalid(at.Child("registry"), s.Registry, pairs)
			}
		}
	}
	p.requiredText(at, "volume", s.Volume)
}

func (p *problems) fibreChannel(at *field.Path, s *corev1.FCVolumeSource) {
	if len(s.TargetWWNs) == 0 && len(s.WWIDs) == 0 {
		p.missing(at.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both")
	}
	if len(s.TargetWWNs) == 0 {
		return
	}
	if len(s.WWIDs) != 0 {
		p.invalid(at.Child("targetWWNs"), s.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously")
	}
	if s.Lun == nil {
		p.missing(at.Child("lun"), "lun is required if targetWWNs is specified")
	} else {
		p.lun(at, *s.Lun)
	}
}

func (p *problems) lun(at *field.Path, lun int32) {
	if lun < 0 || lun > 255 {
		p.invalid(at.Child("lun"), lun, validation.InclusiveRangeError(0, 255))
	}
}

// flexVolume checks a FlexVolume's driver and options.
func (p *problems) flexVolume(at *field.Path, driver string, options map[string]string) {
	p.requiredText(at, "driver", driver)
	for key := range options {
		namespace, _, found := strings.Cut(key, "/")
		if !found {
			namespace = key
		}
		namespace = "." + strings.ToLower(namespace)
		if strings.HasSuffix(namespace, ".kubernetes.io") || strings.HasSuffix(namespace, ".k8s.io") {
			p.invalid(at.Child("options").Key(key), key, "kubernetes.io and k8s.io namespaces are reserved")
		}
	}
}

func (p *problems) azureDisk(at *field.Path, s *corev1.AzureDiskVolumeSource) {
	p.requiredText(at, "diskName", s.DiskName, "diskURI", s.DataDiskURI)
	anyOf(p, at.Child("cachingMode"), s.CachingMode, corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)
	anyOf(p, at.Child("kind"), s.Kind, corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)
	if s.Kind == nil {
		return
	}
	if managed := *s.Kind == corev1.AzureManagedDisk; managed && !strings.HasPrefix(s.DataDiskURI, "/subscriptions/") {
		p.one(field.NotSupported(at.Child("diskURI"), s.DataDiskURI,
			[]string{"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"}))
	} else if !managed && !strings.HasPrefix(s.DataDiskURI, "https://") {
		p.one(field.NotSupported(at.Child("diskURI"), s.DataDiskURI,
			[]string{"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"}))
	}
}

// storageOS checks what the two StorageOS sources share.
func (p *problems) storageOS(at *field.Path, volume, namespace string) {
	p.requiredText(at, "volumeName", volume)
	if volume != "" {
		p.dnsLabel(at.Child("volumeName"), volume)
	}
	if namespace != "" {
		p.dnsLabel(at.Child("volumeNamespace"), namespace)
	}
}

// iscsi is what the two iSCSI sources share; unknown is what each says of names
// of no known form.
type iscsi struct {
	unknown       string
	portal, iqn   string
	lun           int32
	chap, secret  bool
	initiatorName *string
}

func (p *problems) iscsi(at *field.Path, s iscsi) {
	p.requiredText(at, "targetPortal", s.portal, "iqn", s.iqn)
	if s.iqn != "" {
		p.iscsiName(at.Child("iqn"), s.iqn, s.unknown)
	}
	p.lun(at, s.lun)
	if s.chap && !s.secret {
		p.required(at.Child("secretRef"))
	}
	if s.initiatorName != nil {
		p.iscsiName(at.Child("initiatorname"), *s.initiatorName, s.unknown)
	}
}

func (p *problems) iscsiName(at *field.Path, name, unknown string) {
	form := map[string]string{
		"iqn": `iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`,
		"eui": `^eui.[[:alnum:]]{16}$`,
		"naa": `^naa.[[:alnum:]]{32}$`,
	}
	if len(name) < 3 || form[name[:3]] == "" {
		p.invalid(at, name, unknown)
	} else if good, _ := regexp.MatchString(form[name[:3]], name); !good {
		p.invalid(at, name, "must be valid format")
	}
}

// iscsiTooLong tells whether a volume's name and portal do not fit into the
// name of the interface that a custom initiator needs.
func iscsiTooLong(name, portal string, initiator *string) bool {
	return initiator != nil && len(name+":"+portal) > 64
}

const iscsiLength = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."

func (p *problems) csiDriverName(at *field.Path, name string) {
	if name == "" {
		p.required(at)
		return
	}
	if len(name) > 63 {
		p.one(field.TooLong(at, "", 63))
	}
	p.invalids(at, name, validation.IsDNS1123Subdomain(strings.ToLower(name)))
}

// noBacksteps refuses paths that leave where they start from.
func (p *problems) noBacksteps(at *field.Path, value string) {
	for _, part := range strings.Split(value, "/") {
		if part == ".." {
			p.invalid(at, value, "must not contain '..'")
			return
		}
	}
}

// localPath checks a path that must stay below where it is put.
func (p *problems) localPath(at *field.Path, value string) {
	if path.IsAbs(value) {
		p.invalid(at, value, "must be a relative path")
	}
	p.noBacksteps(at, value)
}

// fileName is localPath for files that the kubelet writes, whose own names
// begin with "..".
func (p *problems) fileName(at *field.Path, value string) {
	p.localPath(at, value)
	if strings.HasPrefix(value, "..") && value != ".." && !strings.HasPrefix(value, "../") {
		p.invalid(at, value, "must not start with '..'")
	}
}

func (p *problems) fileMode(at *field.Path, mode *int32) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		p.invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive")
	}
}

func (p *problems) className(at *field.Path, name string) {
	p.invalids(at, name, apivalidation.NameIsDNSSubdomain(name, false))
}

// accessModes checks ways to mount a volume.
func (p *problems) accessModes(at *field.Path, modes []corev1.PersistentVolumeAccessMode) {
	known := []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod}
	others := 0
	for _, m := range modes {
		if !contains(known, m) {
			p.one(field.NotSupported(at, m, known))
		} else if m != corev1.ReadWriteOncePod {
			others++
		}
	}
	if others > 0 && contains(modes, corev1.ReadWriteOncePod) {
		p.forbidden(at, "may not use ReadWriteOncePod with other access modes")
	}
}
