//go:build e2e

package kubelet_test

import (
	"errors"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/kubelet/eviction"
)

// TestEviction has a kubelet begin on a node that runs a pod and, as it is told
// now, has too little memory.
func TestEviction(t *testing.T) {
	n := start(t)
	n.create(t, pod("victim", script("c", "exec sleep 1000")))
	n.await(t, "victim", ready)
	n.stop()
	n.thresholds = []eviction.Threshold{{Signal: eviction.MemoryAvailable, Percent: 99.99}}
	n.startKubelet(t)

	evicted := func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed && p.Status.Reason == eviction.Reason }
	p := n.await(t, "victim", evicted)
	if !strings.HasPrefix(p.Status.Message, "The node was low on resource: memory. Threshold quantity: ") ||
		!strings.Contains(p.Status.Message, "Container c was using ") {
		t.Errorf("message %q", p.Status.Message)
	}
	if p.Status.ContainerStatuses[0].State.Terminated == nil {
		t.Errorf("the container is %+v", p.Status.ContainerStatuses[0].State)
	}
	told := false
	for _, c := range p.Status.Conditions {
		told = told || c.Type == v1.DisruptionTarget && c.Status == v1.ConditionTrue && c.Reason == v1.PodReasonTerminationByKubelet
	}
	if !told {
		t.Errorf("no condition tells of the eviction: %+v", p.Status.Conditions)
	}

	n.create(t, pod("late", script("c", "exec sleep 1000")))
	p = n.await(t, "late", evicted)
	if p.Status.Message != "Pod was rejected: The node had condition: [MemoryPressure]. " {
		t.Errorf("message %q", p.Status.Message)
	}
	eventually(t, func() error {
		var object v1.Node
		if err := n.Client.Get(t.Context(), client.ObjectKey{Name: nodeName}, &object); err != nil {
			return err
		}
		for _, c := range object.Status.Conditions {
			if c.Type == v1.NodeMemoryPressure && c.Status == v1.ConditionTrue {
				return nil
			}
		}
		return errors.New("the node does not tell of its lack of memory")
	})
}

// TestDiskLimits has pods write more than they may, where the node has plenty.
func TestDiskLimits(t *testing.T) {
	n := start(t)
	write := "; dd if=/dev/zero bs=1M count=4 of="
	volume := pod("volume", script("c", "echo volume"+write+"/data/big; exec sleep 1000"))
	volume.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: ptr.To(resource.MustParse("2Mi"))}}}}
	volume.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "data", MountPath: "/data"}}
	layer := pod("layer", script("c", "echo layer"+write+"/big; exec sleep 1000"))
	layer.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: resource.MustParse("2Mi")}
	modest := pod("modest", script("c", "exec sleep 1000"))
	modest.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: resource.MustParse("2Mi")}
	for _, p := range []*v1.Pod{volume, layer, modest} {
		n.create(t, p)
	}
	for name, want := range map[string]string{
		"volume": `Usage of EmptyDir volume "data" exceeds the limit "2Mi". `,
		"layer":  "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ",
	} {
		p := n.await(t, name, func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
		if p.Status.Reason != eviction.Reason || p.Status.Message != want {
			t.Errorf("%s: %s, %q", name, p.Status.Reason, p.Status.Message)
		}
	}
	n.await(t, "modest", ready)
}
