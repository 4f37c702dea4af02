//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"skiff/internal/images/imagetest"
)

const resizing = "[sig-node] Pod InPlace Resize Container "

var nodeAPIs = []conformant{
	{resizing + "burstable pods - extended 6 containers - various operations performed (including adding limits and requests) [MinimumKubeletVersion:1.34]", resizes(
		[]amounts{{cpu: "20m"}, {memory: "35Mi"}, {cpu: "20m", memory: "35Mi"}, {cpu: "20m"}, {memory: "35Mi"}},
		[]amounts{{cpu: "25m", cpuLimit: "35m"}, {memory: "30Mi", memoryLimit: "50Mi"}, {cpu: "20m", memory: "30Mi"}, {cpu: "15m", memory: "35Mi"}, {cpu: "20m", memory: "40Mi"}}, false)},
	{resizing + "burstable pods - extended resize with equivalents [MinimumKubeletVersion:1.34]", resizes(
		[]amounts{{cpu: "2m", cpuLimit: "10m"}}, []amounts{{cpu: "1m", cpuLimit: "5m"}}, true)},
	{resizing + "guaranteed pods with multiple containers 3 containers - increase cpu & mem on c1, c2, decrease cpu & mem on c3 - net increase [MinimumKubeletVersion:1.34]", resizes(
		guaranteedPods, []amounts{guaranteed("25m", "40Mi"), guaranteed("27m", "42Mi"), guaranteed("19m", "34Mi")}, true)},
	{resizing + "guaranteed pods with multiple containers 3 containers - increase cpu & mem on c1, decrease cpu & mem on c2, c3 - net decrease [MinimumKubeletVersion:1.34]", resizes(
		guaranteedPods, []amounts{guaranteed("25m", "40Mi"), guaranteed("17m", "32Mi"), guaranteed("19m", "34Mi")}, true)},
	{resizing + "guaranteed pods with multiple containers 3 containers - increase: CPU (c1,c3), memory (c2, c3) ; decrease: CPU (c2) [MinimumKubeletVersion:1.34]", resizes(
		guaranteedPods, []amounts{guaranteed("25m", "35Mi"), guaranteed("17m", "42Mi"), guaranteed("29m", "44Mi")}, true)},
	{resizing + "resize pod via the replace endpoint [MinimumKubeletVersion:1.34]", (*space).testResizeByReplacement},
	{"[sig-node] Ephemeral Containers [NodeConformance] should update the ephemeral containers in an existing pod", (*space).testEphemeralUpdate},
	{"[sig-node] Ephemeral Containers [NodeConformance] will start an ephemeral container in an existing pod", (*space).testEphemeralStart},
	{"[sig-node] RuntimeClass should reject a Pod requesting a deleted RuntimeClass [NodeConformance]", (*space).testDeletedRuntimeClass},
	{"[sig-node] RuntimeClass should reject a Pod requesting a non-existent RuntimeClass [NodeConformance]", (*space).testNoRuntimeClass},
	{"[sig-node] RuntimeClass should schedule a Pod requesting a RuntimeClass and initialize its Overhead [NodeConformance]", (*space).testRuntimeClassOverhead},
	{"[sig-node] RuntimeClass should schedule a Pod requesting a RuntimeClass without PodOverhead [NodeConformance]", (*space).testRuntimeClass},
}

// amounts are what a container asks for; nothing is "".
type amounts struct{ cpu, cpuLimit, memory, memoryLimit string }

func guaranteed(cpu, memory string) amounts { return amounts{cpu, cpu, memory, memory} }

var guaranteedPods = []amounts{guaranteed("20m", "35Mi"), guaranteed("22m", "37Mi"), guaranteed("24m", "39Mi")}

func (a amounts) resources() corev1.ResourceRequirements {
	var out corev1.ResourceRequirements
	set := func(list *corev1.ResourceList, name corev1.ResourceName, amount string) {
		if amount == "" {
			return
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = resource.MustParse(amount)
	}
	set(&out.Requests, corev1.ResourceCPU, a.cpu)
	set(&out.Requests, corev1.ResourceMemory, a.memory)
	set(&out.Limits, corev1.ResourceCPU, a.cpuLimit)
	set(&out.Limits, corev1.ResourceMemory, a.memoryLimit)
	return out
}

// seen is what a container sees of its limits; "" where it has none.
func (a amounts) seen() (memory, quota string) {
	if a.memoryLimit != "" {
		memory = fmt.Sprint(new(resource.MustParse(a.memoryLimit)).Value())
	}
	if a.cpuLimit != "" {
		quota = fmt.Sprint(max(new(resource.MustParse(a.cpuLimit)).MilliValue()*100, 1000))
	}
	return memory, quota
}

// resizable starts a pod with a container for each.
func (s *space) resizable(containers []amounts) {
	s.Helper()
	t := template("resized", idle)
	first := t.Spec.Containers[0]
	t.Spec.Containers = nil
	for i, a := range containers {
		c := *first.DeepCopy()
		c.Name, c.Resources = fmt.Sprintf("c%d", i+1), a.resources()
		t.Spec.Containers = append(t.Spec.Containers, c)
	}
	s.startPod("resized", t)
	s.resized(containers)
}

// resized waits until the pod's containers have got what they ask for without
// a restart, as the status says and as they see.
func (s *space) resized(want []amounts) *corev1.Pod {
	s.Helper()
	p := s.podThat("resized", "has what it asks for", func(p *corev1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress {
				return false
			}
		}
		if len(p.Status.ContainerStatuses) != len(want) {
			return false
		}
		for i, a := range want {
			st := p.Status.ContainerStatuses[i]
			if st.Resources == nil || st.RestartCount != 0 || !equality.Semantic.DeepEqual(st.Resources.Requests, a.resources().Requests) ||
				!equality.Semantic.DeepEqual(st.Resources.Limits, a.resources().Limits) || !equality.Semantic.DeepEqual(st.AllocatedResources, a.resources().Requests) {
				return false
			}
		}
		return true
	})
	for i, a := range want {
		memory, quota := a.seen()
		s.eventually("a container sees its limits", func(context.Context) error {
			out, err := s.with("", "exec", "resized", "-c", fmt.Sprintf("c%d", i+1), "--", "sh", "-c", limits)
			got := strings.Fields(out)
			if err == nil && (len(got) != 2 || memory != "" && got[0] != memory || quota != "" && got[1] != quota) {
				err = fmt.Errorf("%d sees %v, not %s and %s", i, got, memory, quota)
			}
			return err
		})
	}
	return p
}

// resizes is a test that patches a pod's resources, and back where that is
// allowed: requests and limits can be added, not taken away.
func resizes(from, to []amounts, back bool) func(*space) {
	return func(s *space) {
		s.resizable(from)
		before := s.ready("resized")
		patch := func(want []amounts) {
			var containers []corev1.Container
			for i, a := range want {
				containers = append(containers, corev1.Container{Name: fmt.Sprintf("c%d", i+1), Resources: a.resources()})
			}
			_, err := s.client.CoreV1().Pods(s.ns).Patch(s.Context(), "resized", types.StrategicMergePatchType, []byte(`{"spec":{"containers":`+text(containers)+`}}`), metav1.PatchOptions{}, "resize")
			s.ok(err)
		}
		patch(to)
		p := s.resized(to)
		s.condition("the resize is a new generation of the same class", p.Generation == before.Generation+1 && p.Status.QOSClass == before.Status.QOSClass, p)
		if back {
			patch(from)
			s.resized(from)
		}
	}
}

func (s *space) testResizeByReplacement() {
	from, to := []amounts{{"20m", "30m", "35Mi", "45Mi"}}, []amounts{{"25m", "35m", "40Mi", "50Mi"}}
	s.resizable(from)
	s.ok(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		var p corev1.Pod
		s.get(podsResource, "resized", &p, "resize")
		p.Spec.Containers[0].Resources = to[0].resources()
		_, err := s.client.CoreV1().Pods(s.ns).UpdateResize(s.Context(), "resized", &p, metav1.UpdateOptions{})
		return err
	}))
	s.resized(to)
	var sub, main corev1.Pod
	s.get(podsResource, "resized", &sub, "resize")
	s.get(podsResource, "resized", &main)
	s.condition("the subresource is the pod", equality.Semantic.DeepEqual(sub, main), sub)
}

func ephemeral(name string) corev1.EphemeralContainer {
	return corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: name, Image: imagetest.BusyboxName, Command: []string{"sh", "-c", "echo polo; " + idle}, Stdin: true, TTY: true,
	}}
}

// addEphemeral adds an ephemeral container and waits until it runs.
func (s *space) addEphemeral(pod, name string) {
	s.Helper()
	s.ok(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		p, err := s.client.CoreV1().Pods(s.ns).Get(s.Context(), pod, metav1.GetOptions{})
		if err != nil {
			return err
		}
		p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, ephemeral(name))
		_, err = s.client.CoreV1().Pods(s.ns).UpdateEphemeralContainers(s.Context(), pod, p, metav1.UpdateOptions{})
		return err
	}))
	s.podThat(pod, "runs "+name, func(p *corev1.Pod) bool {
		return slices.ContainsFunc(p.Status.EphemeralContainerStatuses, func(st corev1.ContainerStatus) bool { return st.Name == name && st.State.Running != nil })
	})
}

func (s *space) testEphemeralStart() {
	s.startPod("ephemeral", template("ephemeral", idle))
	_, err := s.client.CoreV1().Pods(s.ns).Patch(s.Context(), "ephemeral", types.StrategicMergePatchType,
		[]byte(`{"spec":{"ephemeralContainers":[`+text(ephemeral("debugger"))+`]}}`), metav1.PatchOptions{}, "ephemeralcontainers")
	s.ok(err)
	s.podThat("ephemeral", "runs the container", func(p *corev1.Pod) bool {
		return len(p.Status.EphemeralContainerStatuses) == 1 && p.Status.EphemeralContainerStatuses[0].State.Running != nil
	})
	s.eventually("its log", func(context.Context) error {
		out, err := s.with("", "logs", "ephemeral", "-c", "debugger")
		if err == nil && !strings.Contains(out, "polo") {
			err = fmt.Errorf("it is %q", out)
		}
		return err
	})
}

func (s *space) testEphemeralUpdate() {
	s.startPod("ephemeral", template("ephemeral", idle))
	s.addEphemeral("ephemeral", "first")
	var p corev1.Pod
	s.get(podsResource, "ephemeral", &p, "ephemeralcontainers")
	s.condition("there is one", len(p.Spec.EphemeralContainers) == 1 && p.Spec.EphemeralContainers[0].Name == "first", p.Spec)
	s.addEphemeral("ephemeral", "second")
	s.get(podsResource, "ephemeral", &p, "ephemeralcontainers")
	s.condition("there are two", len(p.Spec.EphemeralContainers) == 2, p.Spec)
}

// runtimeClass makes a RuntimeClass with a handler, and returns its name.
func (s *space) runtimeClass(handler string, overhead corev1.ResourceList) string {
	s.Helper()
	class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: s.ns}, Handler: handler}
	if overhead != nil {
		class.Overhead = &nodev1.Overhead{PodFixed: overhead}
	}
	_, err := s.client.NodeV1().RuntimeClasses().Create(s.Context(), class, metav1.CreateOptions{})
	s.ok(err)
	return class.Name
}

func (s *space) ofClass(class string) (*corev1.Pod, error) {
	t := template("classed", idle)
	t.Spec.RuntimeClassName = &class
	return s.client.CoreV1().Pods(s.ns).Create(s.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "classed"}, Spec: t.Spec}, metav1.CreateOptions{})
}

func (s *space) testNoRuntimeClass() {
	_, err := s.ofClass("nonexistent")
	s.condition("the pod is refused", apierrors.IsForbidden(err) && strings.Contains(err.Error(), `pod rejected: RuntimeClass "nonexistent" not found`), err)
}

func (s *space) testDeletedRuntimeClass() {
	class := s.runtimeClass("runc", nil)
	s.ok(s.client.NodeV1().RuntimeClasses().Delete(s.Context(), class, metav1.DeleteOptions{}))
	_, err := s.ofClass(class)
	s.condition("the pod is refused", apierrors.IsForbidden(err), err)
}

func (s *space) testRuntimeClass() {
	p, err := s.ofClass(s.runtimeClass("some-handler", nil))
	s.ok(err)
	s.condition("there is no overhead", p.Spec.Overhead == nil, p.Spec)
	s.podThat("classed", "is scheduled", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })
}

func (s *space) testRuntimeClassOverhead() {
	overhead := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("1Mi")}
	p, err := s.ofClass(s.runtimeClass("some-handler", overhead))
	s.ok(err)
	s.condition("the overhead is the class's", equality.Semantic.DeepEqual(p.Spec.Overhead, overhead), p.Spec)
	s.podThat("classed", "is scheduled", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })
}
