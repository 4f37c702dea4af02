package namespace

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"

	"skiff/internal/controllers/controller"
)

// content is what an attempt to empty a namespace left.
type content struct {
	discovery  error
	failures   []error
	remaining  map[string]int // by resource.group
	finalizers map[string]int
	// first is where something remained first.
	first *metav1.PartialObjectMetadataList
}

func (c *content) err() error { return errors.Join(append(c.failures, c.discovery)...) }

func (c *content) remain(r controller.Resource, list *metav1.PartialObjectMetadataList) {
	if c.remaining == nil {
		c.remaining, c.finalizers, c.first = map[string]int{}, map[string]int{}, list
	}
	c.remaining[r.Resource+"."+r.Group] = len(list.Items)
	for i := range list.Items {
		for _, f := range list.Items[i].Finalizers {
			c.finalizers[f]++
		}
	}
}

// conditions says in the namespace's status why it is still there. The words
// are upstream's, which people and tools look for.
func (c *content) conditions(s *corev1.NamespaceStatus, now metav1.Time) {
	set := func(kind corev1.NamespaceConditionType, bad bool, okReason, okMessage, reason, message string) {
		next := corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionFalse, Reason: okReason, Message: okMessage, LastTransitionTime: now}
		if bad {
			next.Status, next.Reason, next.Message = corev1.ConditionTrue, reason, message
		}
		for i := range s.Conditions {
			if old := &s.Conditions[i]; old.Type == kind {
				if old.Status == next.Status {
					next.LastTransitionTime = old.LastTransitionTime
				}
				*old = next
				return
			}
		}
		s.Conditions = append(s.Conditions, next)
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, c.discovery != nil,
		"ResourcesDiscovered", "All resources successfully discovered",
		"DiscoveryFailed", discoveryFailure(c.discovery))
	set(corev1.NamespaceDeletionGVParsingFailure, false,
		"ParsedGroupVersions", "All legacy kube types successfully parsed", "", "")
	set(corev1.NamespaceDeletionContentFailure, len(c.failures) > 0,
		"ContentDeleted", "All content successfully deleted, may be waiting on finalization",
		"ContentDeletionFailed", fmt.Sprintf("Failed to delete all resource types, %d remaining: %v", len(c.failures), texts(c.failures)))
	set(corev1.NamespaceContentRemaining, len(c.remaining) > 0,
		"ContentRemoved", "All content successfully removed",
		"SomeResourcesRemain", "Some resources are remaining: "+counts(c.remaining, "%s has %d resource instances"))
	set(corev1.NamespaceFinalizersRemaining, len(c.finalizers) > 0,
		"ContentHasNoFinalizers", "All content-preserving finalizers finished",
		"SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+counts(c.finalizers, "%s in %d resource instances"))
}

func discoveryFailure(err error) string {
	var failed *discovery.ErrGroupDiscoveryFailed
	switch {
	case err == nil:
		return ""
	case errors.As(err, &failed):
		return fmt.Sprintf("Discovery failed for some groups, %d failing: %v", len(failed.Groups), err)
	}
	return err.Error()
}

func texts(errs []error) string {
	var all []string
	for _, err := range errs {
		all = append(all, err.Error())
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func counts(m map[string]int, format string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf(format, k, m[k]))
	}
	return strings.Join(parts, ", ")
}
