package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// file is where a volume puts something, and what that is from.
type file struct{ path, source string }

func (f file) String() string {
	if f.source == "" {
		return fmt.Sprintf("%q", f.path)
	}
	return fmt.Sprintf("%q (%s)", f.path, f.source)
}

// meets tells whether one of two paths is the other, or leads to it.
func (f file) meets(other file) bool {
	return strings.HasPrefix(f.path+"/", other.path+"/") || strings.HasPrefix(other.path+"/", f.path+"/")
}

// sharedPaths warns of volumes that put two files in one place, or one below
// the other.
func (w *warnings) sharedPaths(volumes []corev1.Volume) {
	for i := range volumes {
		v := &volumes[i]
		switch {
		case v.ConfigMap != nil:
			w.meetingFiles(v.Name, fmt.Sprintf("ConfigMap %q", v.ConfigMap.Name), filesOfKeys(v.ConfigMap.Items, ""))
		case v.Secret != nil:
			w.meetingFiles(v.Name, fmt.Sprintf("Secret %q", v.Secret.SecretName), filesOfKeys(v.Secret.Items, ""))
		case v.DownwardAPI != nil:
			w.meetingFiles(v.Name, "DownwardAPI", filesOfFields(v.DownwardAPI.Items, ""))
		case v.Projected != nil:
			var all []file
			for j := range v.Projected.Sources {
				s := &v.Projected.Sources[j]
				if *s == (corev1.VolumeProjection{}) {
					*w = append(*w, fmt.Sprintf("volume %q (Projected) has no sources provided", v.Name))
				}
				all = append(all, projectedFiles(s)...)
			}
			w.meetingFiles(v.Name, "Projected", all)
		}
	}
}

func (w *warnings) meetingFiles(volume, what string, files []file) {
	for i := range files {
		files[i].path = strings.TrimRight(files[i].path, "/")
		for _, other := range files[:i] {
			if files[i].path != "" && other.path != "" && files[i].meets(other) {
				*w = append(*w, fmt.Sprintf("volume %q (%s): overlapping paths: %s with %s", volume, what, files[i], other))
			}
		}
	}
}

func filesOfKeys(items []corev1.KeyToPath, source string) (files []file) {
	for _, item := range items {
		files = append(files, file{item.Path, source})
	}
	return files
}

func filesOfFields(items []corev1.DownwardAPIVolumeFile, source string) (files []file) {
	for _, item := range items {
		files = append(files, file{item.Path, source})
	}
	return files
}

func projectedFiles(s *corev1.VolumeProjection) (files []file) {
	switch {
	case s.ConfigMap != nil:
		return filesOfKeys(s.ConfigMap.Items, fmt.Sprintf("ConfigMap %q", s.ConfigMap.Name))
	case s.Secret != nil:
		return filesOfKeys(s.Secret.Items, fmt.Sprintf("Secret %q", s.Secret.Name))
	case s.DownwardAPI != nil:
		return filesOfFields(s.DownwardAPI.Items, "DownwardAPI")
	case s.ServiceAccountToken != nil:
		return []file{{s.ServiceAccountToken.Path, "ServiceAccountToken"}}
	case s.ClusterTrustBundle != nil:
		name := ptr.Deref(s.ClusterTrustBundle.Name, ptr.Deref(s.ClusterTrustBundle.SignerName, ""))
		return []file{{s.ClusterTrustBundle.Path, fmt.Sprintf("ClusterTrustBundle %q", name)}}
	case s.PodCertificate != nil:
		return []file{
			{s.PodCertificate.CertificateChainPath, "PodCertificate chain"},
			{s.PodCertificate.KeyPath, "PodCertificate key"},
			{s.PodCertificate.CredentialBundlePath, "PodCertificate credential bundle"},
		}
	}
	return nil
}
