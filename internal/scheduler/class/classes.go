package class

import (
	"maps"
	"slices"
	"strings"

	"k8s.io/utils/lru"

	"skiff/internal/scheduler/framework"
)

// Classes remembers the classes of recent pods. Labels that no selector looks
// at do not tell pods apart: those of a StatefulSet, which have their own name
// among their labels, are one class.
type Classes struct {
	kept *lru.Cache
	// keys are the labels of pods that selectors look at; they only become more.
	keys map[string]bool
	// sorted are the same.
	sorted []string
}

// NewClasses remembers so many classes.
func NewClasses(size int) *Classes {
	return &Classes{kept: lru.New(size), keys: make(map[string]bool)}
}

// Of returns the class of pod, made by make if it is not known.
func (c *Classes) Of(pod *framework.PodInfo, make func() *Class) *Class {
	key := c.key(pod)
	if k, ok := c.kept.Get(key); ok {
		return k.(*Class)
	}
	k := make()
	if k.Lasting() {
		c.kept.Add(key, k)
	}
	return k
}

func (c *Classes) key(pod *framework.PodInfo) string {
	var b strings.Builder
	b.WriteString(pod.Shape)
	for _, label := range c.sorted {
		if value, ok := pod.Labels[label]; ok {
			// Neither labels nor their values have a zero byte in them.
			b.WriteString("\x00" + label + "\x00" + value)
		}
	}
	return b.String()
}

// Clear forgets all classes.
func (c *Classes) Clear() { c.kept.Clear() }

// Regard tells that selectors look at these labels of pods.
func (c *Classes) Regard(keys []string) {
	known := len(c.keys)
	for _, key := range keys {
		c.keys[key] = true
	}
	if len(c.keys) > known {
		c.sorted = slices.Sorted(maps.Keys(c.keys))
		c.kept.Clear()
	}
}
