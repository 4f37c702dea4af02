package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (c *podCheck) env(at *field.Path, vars []corev1.EnvVar) {
	for i := range vars {
		v, at := &vars[i], at.Index(i)
		if v.Name == "" {
			c.required(at.Child("name"))
		} else {
			c.invalids(at.Child("name"), v.Name, validation.IsRelaxedEnvVarName(v.Name))
		}
		if v.ValueFrom != nil {
			c.envValue(at.Child("valueFrom"), v)
		}
	}
}

func (c *podCheck) envValue(at *field.Path, v *corev1.EnvVar) {
	from, sources := v.ValueFrom, 0
	if from.FieldRef != nil {
		sources++
		c.fieldRef(at.Child("fieldRef"), from.FieldRef, "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
			"spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")
	}
	if from.ResourceFieldRef != nil {
		sources++
		c.resourceFieldRef(at.Child("resourceFieldRef"), from.ResourceFieldRef, false)
	}
	if ref := from.ConfigMapKeyRef; ref != nil {
		sources++
		c.keyRef(at.Child("configMapKeyRef"), ref.Name, ref.Key)
	}
	if ref := from.SecretKeyRef; ref != nil {
		sources++
		c.keyRef(at.Child("secretKeyRef"), ref.Name, ref.Key)
	}
	if ref := from.FileKeyRef; ref != nil {
		sources++
		c.fileKeyRef(at.Child("fileKeyRef"), ref)
	}
	switch {
	case sources == 0:
		c.invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")
	case v.Value != "":
		c.invalid(at, "", "may not be specified when `value` is not empty")
	case sources > 1:
		c.invalid(at, "", oneSource)
	}
}

const oneSource = "may not have more than one field specified at a time"

func (c *podCheck) keyRef(at *field.Path, name, key string) {
	c.invalids(at.Child("name"), name, apivalidation.NameIsDNSSubdomain(name, false))
	if key == "" {
		c.required(at.Child("key"))
	} else {
		c.invalids(at.Child("key"), key, validation.IsConfigMapKey(key))
	}
}

// fileKeyRef checks a variable that an init container writes into a file of an
// emptyDir (KEP-3721).
func (c *podCheck) fileKeyRef(at *field.Path, ref *corev1.FileKeySelector) {
	if ref.Key == "" {
		c.required(at.Child("key"))
	} else {
		c.invalids(at.Child("key"), ref.Key, validation.IsRelaxedEnvVarName(ref.Key))
	}
	c.requiredText(at, "volumeName", ref.VolumeName, "path", ref.Path)
	if ref.Path != "" {
		c.fileName(at.Child("path"), ref.Path)
	}
	if ref.VolumeName != "" {
		c.dnsLabel(at.Child("volumeName"), ref.VolumeName)
	}
}

// fileKeyVolumes checks the volumes that such variables are read from.
func (c *podCheck) fileKeyVolumes(at *field.Path) {
	visitContainers(c.spec, at, func(ctr *corev1.Container, at *field.Path) {
		for i, v := range ctr.Env {
			if v.ValueFrom == nil || v.ValueFrom.FileKeyRef == nil {
				continue
			}
			name, at := v.ValueFrom.FileKeyRef.VolumeName, at.Child("env").Index(i).Child("valueFrom", "fileKeyRef", "volumeName")
			i := slices.IndexFunc(c.spec.Volumes, func(v corev1.Volume) bool { return v.Name == name })
			if i < 0 {
				c.one(field.NotFound(at, name))
			} else if c.spec.Volumes[i].EmptyDir == nil {
				c.invalid(at, name, "referenced volume must be of type emptyDir")
			}
		}
	})
}

// subscripted takes metadata.labels['key'] and the like apart.
func subscripted(path string) (field, key string, ok bool) {
	i := strings.LastIndex(path, "['")
	if i <= 0 || !strings.HasSuffix(path, "']") || len(path) < i+len("['']") {
		return path, "", false
	}
	return path[:i], path[i+2 : len(path)-2], true
}

// fieldRef checks a reference to a field of the pod, one of those allowed or
// one label or annotation.
func (c *podCheck) fieldRef(at *field.Path, ref *corev1.ObjectFieldSelector, allowed ...string) {
	if ref.APIVersion == "" {
		c.required(at.Child("apiVersion"))
		return
	}
	if ref.FieldPath == "" {
		c.required(at.Child("fieldPath"))
		return
	}
	unusable := func(detail string) {
		c.invalid(at.Child("fieldPath"), ref.FieldPath, "error converting fieldPath: "+detail)
	}
	if ref.APIVersion != "v1" {
		unusable(fmt.Sprintf("unsupported pod version: %s", ref.APIVersion))
		return
	}
	path, key, ok := subscripted(ref.FieldPath)
	if ok {
		switch path {
		case "metadata.annotations":
			c.qualifiedName(at, strings.ToLower(key))
		case "metadata.labels":
			c.qualifiedName(at, key)
		default:
			unusable("field label does not support subscript: " + path)
		}
		return
	}
	// What one can refer to somewhere is told from what does not exist.
	known := []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
		"spec.restartPolicy", "spec.serviceAccountName", "spec.schedulerName", "status.phase", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
	if path == "spec.host" {
		path = "spec.nodeName"
	}
	if !contains(known, path) {
		unusable("field label not supported: " + path)
	} else if !contains(allowed, path) {
		c.one(field.NotSupported(at.Child("fieldPath"), path, allowed))
	}
}

// resourceFieldRef checks a reference to a container's own limits or requests;
// in a volume it must say which container's.
func (c *podCheck) resourceFieldRef(at *field.Path, ref *corev1.ResourceFieldSelector, volume bool) {
	allowed := []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"}
	hugePages := strings.HasPrefix(ref.Resource, "limits.hugepages-") || strings.HasPrefix(ref.Resource, "requests.hugepages-")
	switch {
	case volume && ref.ContainerName == "":
		c.required(at.Child("containerName"))
	case ref.Resource == "":
		c.required(at.Child("resource"))
	case !hugePages && !contains(allowed, ref.Resource):
		c.one(field.NotSupported(at.Child("resource"), ref.Resource, allowed))
	}
	if ref.Divisor.IsZero() {
		return
	}
	divisors, of := []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}, ""
	text := strings.Join(divisors, ", ")
	switch {
	case hugePages:
		of = "hugepages"
	case strings.HasSuffix(ref.Resource, ".cpu"):
		divisors, text, of = []string{"1m", "1"}, "1m and 1", "cpu"
	case strings.HasSuffix(ref.Resource, ".memory"):
		of = "memory"
	case strings.HasSuffix(ref.Resource, ".ephemeral-storage"):
		of = "local ephemeral storage"
	default:
		return
	}
	if !contains(divisors, ref.Divisor.String()) {
		c.invalid(at.Child("divisor"), ref.Resource, fmt.Sprintf("only divisor's values %s are supported with the %s resource", text, of))
	}
}

func (c *podCheck) envFrom(at *field.Path, from []corev1.EnvFromSource) {
	for i, source := range from {
		item := at.Index(i)
		if source.Prefix != "" {
			c.invalids(item.Child("prefix"), source.Prefix, validation.IsRelaxedEnvVarName(source.Prefix))
		}
		named := func(at *field.Path, name string) {
			if name == "" {
				c.required(at)
			} else {
				c.invalids(at, name, apivalidation.NameIsDNSSubdomain(name, true))
			}
		}
		if source.ConfigMapRef != nil {
			named(item.Child("configMapRef", "name"), source.ConfigMapRef.Name)
		}
		if source.SecretRef != nil {
			named(item.Child("secretRef", "name"), source.SecretRef.Name)
		}
		if source.ConfigMapRef == nil && source.SecretRef == nil {
			c.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`")
		} else if source.ConfigMapRef != nil && source.SecretRef != nil {
			c.invalid(at, "", oneSource)
		}
	}
}

func (c *podCheck) volumeMounts(at *field.Path, ctr *corev1.Container) {
	paths := sets.New[string]()
	for i := range ctr.VolumeMounts {
		m, item := &ctr.VolumeMounts[i], at.Index(i)
		if m.Name == "" {
			c.required(item.Child("name"))
		}
		volume := c.volumes[m.Name]
		if volume == nil {
			c.one(field.NotFound(item.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			c.required(item.Child("mountPath"))
		}
		if paths.Has(m.MountPath) {
			c.invalid(item.Child("mountPath"), m.MountPath, "must be unique")
		}
		paths.Insert(m.MountPath)
		for _, d := range ctr.VolumeDevices {
			if d.Name == m.Name {
				c.invalid(item.Child("name"), m.Name, "must not already exist in volumeDevices")
			}
			if d.DevicePath == m.MountPath {
				c.invalid(item.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices")
			}
		}
		if m.SubPath != "" {
			c.localPath(at.Child("subPath"), m.SubPath)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				c.invalid(item.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive")
			}
			c.localPath(at.Child("subPathExpr"), m.SubPathExpr)
		}
		c.mountPropagation(at, m, ctr)
	}
}

func (c *podCheck) mountPropagation(at *field.Path, m *corev1.VolumeMount, ctr *corev1.Container) {
	mode := m.MountPropagation
	anyOf(&c.problems, at.Child("mountPropagation"), mode, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
	if mode != nil && *mode == corev1.MountPropagationBidirectional && !isPrivileged(ctr) {
		c.forbidden(at.Child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers")
	}
	if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled {
		return
	}
	at = at.Child("recursiveReadOnly")
	known := []corev1.RecursiveReadOnlyMode{corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible}
	if !contains(known, *m.RecursiveReadOnly) {
		c.one(field.NotSupported(at, *m.RecursiveReadOnly, known))
		return
	}
	if !m.ReadOnly {
		c.forbidden(at, "may only be specified when readOnly is true")
	}
	if mode != nil && *mode != corev1.MountPropagationNone {
		c.forbidden(at, "may only be specified when mountPropagation is None or not specified")
	}
}

func isPrivileged(ctr *corev1.Container) bool {
	return ctr.SecurityContext != nil && ctr.SecurityContext.Privileged != nil && *ctr.SecurityContext.Privileged
}

func (c *podCheck) volumeDevices(at *field.Path, ctr *corev1.Container) {
	names, paths := sets.New[string](), sets.New[string]()
	for i, d := range ctr.VolumeDevices {
		at := at.Index(i)
		if d.Name == "" {
			c.required(at.Child("name"))
		} else if names.Has(d.Name) {
			c.invalid(at.Child("name"), d.Name, "must be unique")
		}
		names.Insert(d.Name)
		if volume := c.volumes[d.Name]; volume == nil {
			c.one(field.NotFound(at.Child("name"), d.Name))
		} else if volume.PersistentVolumeClaim == nil && volume.Ephemeral == nil {
			c.invalid(at.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
		}
		if d.DevicePath == "" {
			c.required(at.Child("devicePath"))
		}
		if paths.Has(d.DevicePath) {
			c.invalid(at.Child("devicePath"), d.DevicePath, "must be unique")
		}
		if contains(strings.Split(d.DevicePath, "/"), "..") {
			c.invalid(at.Child("devicePath"), d.DevicePath, "can not contain backsteps ('..')")
		}
		paths.Insert(d.DevicePath)
		for _, m := range ctr.VolumeMounts {
			if m.Name == d.Name {
				c.invalid(at.Child("name"), d.Name, "must not already exist in volumeMounts")
			}
			if m.MountPath == d.DevicePath {
				c.invalid(at.Child("devicePath"), d.DevicePath, "must not already exist as a path in volumeMounts")
			}
		}
	}
}
