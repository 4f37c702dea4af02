// Package core declares the resources of the core group, v1: pods, services,
// nodes and what goes with them.
package core

import "skiff/internal/apis"

// Resources returns fresh declarations of all resources of the core group.
func Resources() []*apis.Resource {
	return []*apis.Resource{}
}
