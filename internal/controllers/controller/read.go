package controller

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
)

// NamespaceActive reports whether the namespace exists and things can be made
// in it.
func NamespaceActive(ctx context.Context, cache crclient.Reader, name string) (bool, error) {
	var ns corev1.Namespace
	if err := cache.Get(ctx, types.NamespacedName{Name: name}, &ns, crclient.UnsafeDisableDeepCopy); err != nil {
		return false, crclient.IgnoreNotFound(err)
	}
	return ns.DeletionTimestamp == nil && ns.Status.Phase != corev1.NamespaceTerminating, nil
}

// Exists returns a function that tells whether the cache has an object of o's
// kind by name; o is overwritten.
func Exists(ctx context.Context, cache crclient.Reader, o crclient.Object) func(types.NamespacedName) bool {
	return func(key types.NamespacedName) bool { return cache.Get(ctx, key, o) == nil }
}
