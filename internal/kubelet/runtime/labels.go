package runtime

import (
	"hash/fnv"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubelet/pkg/types"
)

// Annotations that upstream's kubelet leaves on containers; using the same
// ones, Skiff takes over a node of upstream's and the other way round.
const (
	annotationHash                   = "io.kubernetes.container.hash"
	annotationRestartCount           = "io.kubernetes.container.restartCount"
	annotationTerminationMessagePath = "io.kubernetes.container.terminationMessagePath"
	annotationTerminationPolicy      = "io.kubernetes.container.terminationMessagePolicy"
	annotationGracePeriod            = "io.kubernetes.pod.terminationGracePeriod"
)

// Annotations of Skiff's own: Container.Life, where it is not 0, and
// Container.MemoryRequest.
const (
	annotationLife          = "skiff.local/life"
	annotationMemoryRequest = "skiff.local/memory-request"
)

// PodLabels returns the labels of pod's sandbox: the pod's own and those that
// name it.
func PodLabels(pod *v1.Pod) map[string]string {
	labels := make(map[string]string, len(pod.Labels)+3)
	for k, v := range pod.Labels {
		labels[k] = v
	}
	labels[types.KubernetesPodNameLabel] = pod.Name
	labels[types.KubernetesPodNamespaceLabel] = pod.Namespace
	labels[types.KubernetesPodUIDLabel] = string(pod.UID)
	return labels
}

// ContainerLabels returns the labels of a container of pod.
func ContainerLabels(pod *v1.Pod, name string) map[string]string {
	return map[string]string{
		types.KubernetesPodNameLabel:       pod.Name,
		types.KubernetesPodNamespaceLabel:  pod.Namespace,
		types.KubernetesPodUIDLabel:        string(pod.UID),
		types.KubernetesContainerNameLabel: name,
	}
}

// ContainerAnnotations returns what a later kubelet must know of a container
// even when the pod's object is gone.
func ContainerAnnotations(pod *v1.Pod, c *v1.Container, attempt uint32, life int) map[string]string {
	a := map[string]string{
		annotationHash:                   HashContainer(c),
		annotationRestartCount:           strconv.FormatUint(uint64(attempt), 10),
		annotationTerminationMessagePath: c.TerminationMessagePath,
		annotationTerminationPolicy:      string(c.TerminationMessagePolicy),
		annotationMemoryRequest:          strconv.FormatInt(c.Resources.Requests.Memory().Value(), 10),
	}
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		a[annotationGracePeriod] = strconv.FormatInt(*g, 10)
	}
	if life > 0 {
		a[annotationLife] = strconv.Itoa(life)
	}
	return a
}

// HashContainer identifies the fields of a container whose change needs a new
// container: of those that may change in a running pod, only the image.
func HashContainer(c *v1.Container) string {
	h := fnv.New32a()
	h.Write([]byte(c.Name))
	h.Write([]byte{0})
	h.Write([]byte(c.Image))
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}
