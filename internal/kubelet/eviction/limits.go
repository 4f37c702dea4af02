package eviction

import (
	"context"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/component-helpers/resource"
)

// enforce ends the pods that use more disk space than they may, however much is
// left (see "Local ephemeral storage: ephemeral storage consumption management").
// Only pods with limits are measured.
func (m *Manager) enforce(ctx context.Context) {
	pods := slices.DeleteFunc(m.Node.Active(), func(p *v1.Pod) bool { return critical(p) || !limited(p) })
	if len(pods) == 0 {
		return
	}
	usage, err := m.Node.Usage(ctx, pods)
	if err != nil {
		m.Log.Warn("measuring what pods use", "err", err)
	}
	for _, p := range pods {
		if text := exceeded(p, usage[p.UID]); text != "" && ctx.Err() == nil {
			m.end(ctx, p, text, nil)
		}
	}
}

// SizeLimit returns how many bytes an emptyDir may hold; nil if that is not
// limited, or the volume is another one.
func SizeLimit(v *v1.Volume) *apiresource.Quantity {
	if d := v.EmptyDir; d != nil && d.SizeLimit != nil && d.SizeLimit.Sign() > 0 {
		return d.SizeLimit
	}
	return nil
}

// limited reports whether there is a limit on the disk space that the pod uses.
func limited(pod *v1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if SizeLimit(&pod.Spec.Volumes[i]) != nil {
			return true
		}
	}
	_, ok := resource.PodLimits(pod, resource.PodResourcesOptions{})[v1.ResourceEphemeralStorage]
	return ok
}

// exceeded says in upstream's words which of its limits on disk space the pod
// exceeds; it is empty if it keeps them all.
func exceeded(pod *v1.Pod, usage PodUsage) string {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if limit := SizeLimit(v); limit != nil && usage.EmptyDirs[v.Name] > limit.Value() {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit.String())
		}
	}
	limit, ok := resource.PodLimits(pod, resource.PodResourcesOptions{})[v1.ResourceEphemeralStorage]
	if ok && usage.Disk > limit.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		limit := c.Resources.Limits.StorageEphemeral()
		if !limit.IsZero() && usage.Containers[c.Name].Disk > limit.Value() {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String())
		}
	}
	return ""
}
