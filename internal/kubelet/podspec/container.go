package podspec

import (
	"fmt"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/internal/kubelet/cgroups"
	"skiff/internal/kubelet/runtime"
)

// ContainerOptions is what a container needs that its pod does not say.
type ContainerOptions struct {
	Attempt uint32
	Life    int
	// Env is the container's environment, as Env returns it.
	Env map[string]string
	// ImageRef is the image's ID in the runtime, User the user it asks for.
	ImageRef string
	User     ImageUser
	// VolumePath returns where a volume of the pod is on the node.
	VolumePath func(volume string) (string, error)
	// SubPath makes path inside the volume safe to mount and returns where it
	// is; it is asked for the container's mount with this index.
	SubPath func(volume, path string, mount int) (string, error)
	// VolumeGroups are supplementary groups that volumes ask for.
	VolumeGroups []int64
	// Images are the images behind the pod's image volumes, by volume
	// (KEP-4639).
	Images map[string]*cri.ImageSpec
	// HostsFile and TerminationLog are files on the node; empty ones are not
	// mounted.
	HostsFile      string
	TerminationLog string
	SeccompDir     string
	// MemoryCapacity is the node's, in bytes; Unified is true on cgroup v2.
	MemoryCapacity int64
	Unified        bool
	// TargetID is the container whose processes an ephemeral one sees.
	TargetID string
}

const hostsPath = "/etc/hosts"

// Container returns the runtime's configuration of a container. Its errors are
// of the pod's author, in upstream's words.
func Container(pod *v1.Pod, c *v1.Container, o ContainerOptions) (*cri.ContainerConfig, error) {
	if err := verifyNonRoot(pod, c, o.User); err != nil {
		return nil, err
	}
	lookup := func(name string) (string, bool) { v, ok := o.Env[name]; return v, ok }
	mounts, err := mounts(c, o, lookup)
	if err != nil {
		return nil, err
	}
	security := securityContext(pod, c, o.User, groups(pod, o.VolumeGroups), o.SeccompDir)
	if o.TargetID != "" {
		security.NamespaceOptions.Pid = cri.NamespaceMode_TARGET
		security.NamespaceOptions.TargetId = o.TargetID
	}
	out := &cri.ContainerConfig{
		Metadata:    &cri.ContainerMetadata{Name: c.Name, Attempt: o.Attempt},
		Image:       &cri.ImageSpec{Image: o.ImageRef, UserSpecifiedImage: c.Image},
		Command:     expandAll(c.Command, lookup),
		Args:        expandAll(c.Args, lookup),
		WorkingDir:  c.WorkingDir,
		Envs:        keyValues(o.Env),
		Mounts:      mounts,
		Labels:      runtime.ContainerLabels(pod, c.Name),
		Annotations: runtime.ContainerAnnotations(pod, c, o.Attempt, o.Life),
		LogPath:     LogPath(c.Name, o.Attempt),
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		Linux: &cri.LinuxContainerConfig{
			Resources:       cgroups.ContainerResources(pod, c, o.MemoryCapacity, o.Unified),
			SecurityContext: security,
		},
	}
	return out, nil
}

// LogPath returns the path of a container's log below its pod's.
func LogPath(container string, attempt uint32) string {
	return filepath.Join(container, fmt.Sprintf("%d.log", attempt))
}

func mounts(c *v1.Container, o ContainerOptions, lookup func(string) (string, bool)) ([]*cri.Mount, error) {
	var out []*cri.Mount
	ownsHosts := false
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		ownsHosts = ownsHosts || filepath.Clean(m.MountPath) == hostsPath
		if image := o.Images[m.Name]; image != nil {
			sub, err := subPath(m, lookup)
			if err != nil {
				return nil, err
			}
			out = append(out, &cri.Mount{ContainerPath: absolute(m.MountPath), Image: image, ImageSubPath: sub, Readonly: true})
			continue
		}
		host, err := o.VolumePath(m.Name)
		if err != nil {
			return nil, err
		}
		sub, err := subPath(m, lookup)
		if err != nil {
			return nil, err
		}
		if sub != "" {
			if host, err = o.SubPath(m.Name, sub, i); err != nil {
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", m.Name, c.Name, err)
			}
		}
		out = append(out, &cri.Mount{
			ContainerPath: absolute(m.MountPath), HostPath: host, Readonly: m.ReadOnly,
			RecursiveReadOnly: m.RecursiveReadOnly != nil && *m.RecursiveReadOnly == v1.RecursiveReadOnlyEnabled,
			Propagation:       propagation(m.MountPropagation),
		})
	}
	if o.HostsFile != "" && !ownsHosts {
		readOnly := c.SecurityContext != nil && isTrue(c.SecurityContext.ReadOnlyRootFilesystem)
		out = append(out, &cri.Mount{ContainerPath: hostsPath, HostPath: o.HostsFile, Readonly: readOnly, SelinuxRelabel: true})
	}
	if o.TerminationLog != "" && c.TerminationMessagePath != "" {
		out = append(out, &cri.Mount{ContainerPath: c.TerminationMessagePath, HostPath: o.TerminationLog, SelinuxRelabel: true})
	}
	return out, nil
}

// subPath returns the path inside the volume that is mounted, which may be
// empty.
func subPath(m *v1.VolumeMount, lookup func(string) (string, bool)) (string, error) {
	sub := m.SubPath
	if m.SubPathExpr != "" {
		sub = expand(m.SubPathExpr, lookup)
		if strings.Contains(sub, "$(") {
			return "", fmt.Errorf("subPathExpr %q of volume mount %q refers to a variable that is not set", m.SubPathExpr, m.Name)
		}
	}
	if filepath.IsAbs(sub) || hasParent(sub) {
		return "", fmt.Errorf("subPath %q of volume mount %q must be a relative path without '..'", sub, m.Name)
	}
	return sub, nil
}

func absolute(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join("/", path)
}

func hasParent(path string) bool {
	for _, part := range strings.Split(path, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

func propagation(p *v1.MountPropagationMode) cri.MountPropagation {
	if p == nil {
		return cri.MountPropagation_PROPAGATION_PRIVATE
	}
	switch *p {
	case v1.MountPropagationHostToContainer:
		return cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case v1.MountPropagationBidirectional:
		return cri.MountPropagation_PROPAGATION_BIDIRECTIONAL
	default:
		return cri.MountPropagation_PROPAGATION_PRIVATE
	}
}
