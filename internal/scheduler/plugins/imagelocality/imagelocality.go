// Package imagelocality prefers nodes that have a pod's images already.
package imagelocality

import (
	"strings"

	"skiff/internal/scheduler/framework"
)

const (
	// Together images count from the smaller to the larger size; the larger one
	// is for each container.
	smallest = 23 << 20
	largest  = 1000 << 20
)

// Plugin prefers nodes that have a pod's images.
type Plugin struct{}

// Name returns the plugin's name.
func (Plugin) Name() string { return "ImageLocality" }

// PreScore makes the rule for pod.
func (Plugin) PreScore(pod *framework.PodInfo) framework.Scorer {
	s := &scorer{containers: int64(len(pod.Spec.InitContainers) + len(pod.Spec.Containers))}
	for i := range pod.Spec.InitContainers {
		s.images = append(s.images, withTag(pod.Spec.InitContainers[i].Image))
	}
	for i := range pod.Spec.Containers {
		s.images = append(s.images, withTag(pod.Spec.Containers[i].Image))
	}
	s.spread = make([]int64, len(s.images))
	return s
}

// withTag returns the name as nodes report it.
func withTag(image string) string {
	if strings.LastIndex(image, ":") <= strings.LastIndex(image, "/") {
		return image + ":latest"
	}
	return image
}

// scorer counts an image the more the more nodes have it, so that a node which
// is the first to have pulled one does not draw all pods.
type scorer struct {
	containers int64
	images     []string
	// spread is the number of nodes that have each image.
	spread []int64
	nodes  int64
	// known is, by row, whether there is a node, and has which images it has.
	known []bool
	has   [][]bool
}

// Observe counts nodes and their images.
func (s *scorer) Observe(n *framework.NodeInfo) (regroup bool) {
	for len(s.known) <= n.Row {
		s.known = append(s.known, false)
		s.has = append(s.has, nil)
	}
	if now := n.Node != nil; now != s.known[n.Row] {
		s.known[n.Row] = now
		s.nodes += sign(now)
	}
	if len(n.Images) == 0 && s.has[n.Row] == nil {
		return false
	}
	if s.has[n.Row] == nil {
		s.has[n.Row] = make([]bool, len(s.images))
	}
	for i, image := range s.images {
		if _, now := n.Images[image]; now != s.has[n.Row][i] {
			s.has[n.Row][i] = now
			s.spread[i] += sign(now)
		}
	}
	return false
}

func sign(up bool) int64 {
	if up {
		return 1
	}
	return -1
}

// Group is by the images that the node has.
func (s *scorer) Group(n *framework.NodeInfo, keys []uint64) []uint64 {
	for _, image := range s.images {
		keys = append(keys, uint64(n.Images[image]))
	}
	return keys
}

func (s *scorer) Score(n *framework.NodeInfo) int64 {
	var sum int64
	for i, image := range s.images {
		if size, ok := n.Images[image]; ok {
			sum += int64(float64(size) * (float64(s.spread[i]) / float64(s.nodes)))
		}
	}
	most := largest * s.containers
	sum = min(max(sum, smallest), most)
	return framework.MaxScore * (sum - smallest) / (most - smallest)
}
