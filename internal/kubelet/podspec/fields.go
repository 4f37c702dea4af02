package podspec

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Place is where a pod runs, as far as its downward API can ask for it.
type Place struct {
	NodeName string
	// HostIPs and PodIPs have the first of each family, the primary one first.
	HostIPs, PodIPs []string
	// Allocatable is what containers without limits are told.
	Allocatable v1.ResourceList
}

// Field returns the value of a field of the pod in the downward API (see
// "Downward API: available fields").
func Field(pod *v1.Pod, path string, place Place) (string, error) {
	if name, key, ok := subscript(path); ok {
		switch name {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
		return "", fmt.Errorf("fieldPath %q does not support subscript", path)
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return formatMap(pod.Labels), nil
	case "metadata.annotations":
		return formatMap(pod.Annotations), nil
	case "spec.nodeName":
		return place.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(place.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(place.HostIPs, ","), nil
	case "status.podIP":
		return first(place.PodIPs), nil
	case "status.podIPs":
		return strings.Join(place.PodIPs, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

// subscript splits metadata.labels['key'] into its name and key.
func subscript(path string) (name, key string, ok bool) {
	rest, ok := strings.CutSuffix(path, "']")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, "['")
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// formatMap writes a line key="value" for each entry, sorted.
func formatMap(m map[string]string) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b strings.Builder
	for i, k := range keys {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s=%q", k, m[k])
	}
	return b.String()
}

// Resource returns a request or limit of a container in the downward API: the
// named container's, or that of owner where none is named. A missing limit is
// what the node has to give.
func Resource(pod *v1.Pod, owner *v1.Container, sel *v1.ResourceFieldSelector, place Place) (string, error) {
	c := owner
	if sel.ContainerName != "" {
		if c = findContainer(pod, sel.ContainerName); c == nil {
			return "", fmt.Errorf("container %s not found", sel.ContainerName)
		}
	}
	if c == nil {
		return "", fmt.Errorf("resource field %s names no container", sel.Resource)
	}
	kind, name, ok := strings.Cut(sel.Resource, ".")
	if !ok || (kind != "limits" && kind != "requests") {
		return "", fmt.Errorf("unsupported container resource : %v", sel.Resource)
	}
	var q resource.Quantity
	if kind == "requests" {
		q = c.Resources.Requests[v1.ResourceName(name)]
	} else {
		q = c.Resources.Limits[v1.ResourceName(name)]
		if q.IsZero() {
			q = place.Allocatable[v1.ResourceName(name)]
		}
	}
	return divide(q, v1.ResourceName(name), sel.Divisor), nil
}

// divide returns q in units of divisor (default 1), rounded up. CPU counts in
// thousandths, so that a divisor of 1m is exact.
func divide(q resource.Quantity, name v1.ResourceName, divisor resource.Quantity) string {
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == v1.ResourceCPU {
		return strconv.FormatInt(int64(math.Ceil(float64(q.MilliValue())/float64(divisor.MilliValue()))), 10)
	}
	return strconv.FormatInt(int64(math.Ceil(float64(q.Value())/float64(divisor.Value()))), 10)
}

func findContainer(pod *v1.Pod, name string) *v1.Container {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == name {
			return &pod.Spec.Containers[i]
		}
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return &pod.Spec.InitContainers[i]
		}
	}
	return nil
}
