// Package client is how components reach the cluster's API: controller-runtime's
// client and cache interfaces, bound either to the API server in the same
// process (InProcess: a function call, objects shared by reference) or to one on
// another machine (Remote: HTTP/2 and protobuf). A component cannot tell which.
package client

import (
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Set is everything of the cluster that a component is given.
type Set struct {
	// Client reads and writes; reads are as fresh as the last acknowledged
	// write of this process.
	Client client.WithWatch
	// Cache serves reads and events from memory. Objects in events are shared:
	// copy before changing.
	Cache cache.Cache
	// Recorder makes a recorder of Events on behalf of the named component.
	Recorder func(component string) record.EventRecorder
}
