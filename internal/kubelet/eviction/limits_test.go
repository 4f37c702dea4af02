package eviction

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

// limitedPod may use 2 GiB in its container c, 1 GiB in the sidecar d, and 1 GiB in
// the volume v.
func limitedPod() *v1.Pod {
	p := pod("p", 0, 0, 0)
	limit := func(gibs int64) v1.ResourceRequirements {
		return v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceEphemeralStorage: *resource.NewQuantity(gibs*gib, resource.BinarySI)}}
	}
	p.Spec.Containers[0].Resources = limit(2)
	p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "d", Resources: limit(1)})
	p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: resource.NewQuantity(gib, resource.BinarySI)}}}}
	return p
}

func TestLimits(t *testing.T) {
	for _, test := range []struct {
		pod, c, d, volume int64
		want              string
	}{
		{3 * gib, 2 * gib, gib, gib, ""},
		{gib, 0, 0, gib + 1, `Usage of EmptyDir volume "v" exceeds the limit "1Gi". `},
		{3*gib + 1, 0, 0, 0, "Pod ephemeral local storage usage exceeds the total limit of containers 3Gi. "},
		{2 * gib, 0, gib + 1, 0, `Container d exceeded its local ephemeral storage limit "1Gi". `},
	} {
		usage := PodUsage{
			Usage: Usage{Disk: test.pod}, Containers: map[string]Usage{"c": {Disk: test.c}, "d": {Disk: test.d}}, EmptyDirs: map[string]int64{"v": test.volume},
		}
		n := &machine{pods: []*v1.Pod{limitedPod(), pod("free", 0, 0, 0)}, usage: map[types.UID]PodUsage{"p": usage, "free": {Usage: Usage{Disk: 1 << 40}}}}
		f := manager(t, "", n)
		f.enforce(t.Context())
		if got := strings.Join(n.messages, "|"); got != test.want || test.want != "" && n.evicted[0] != "p" {
			t.Errorf("%+v: evicted %q with %q, want %q", test, n.evicted, got, test.want)
		}
		if e := f.event(); (e == "") != (test.want == "") || !strings.Contains(e, test.want) {
			t.Errorf("%+v: event %q", test, e)
		}
	}
}

func TestCriticalPodsKeepTheirDisk(t *testing.T) {
	p := limitedPod()
	*p.Spec.Priority = 2_000_000_000
	n := &machine{pods: []*v1.Pod{p}, usage: map[types.UID]PodUsage{"p": {Usage: Usage{Disk: 10 * gib}}}}
	manager(t, "", n).enforce(t.Context())
	if len(n.evicted) > 0 {
		t.Errorf("evicted %q", n.evicted)
	}
}
