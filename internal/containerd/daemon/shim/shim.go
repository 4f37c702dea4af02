// Package shim is containerd's runc shim, the process that stays beside each
// pod's containers.
package shim

import (
	"context"
	"flag"
	"os"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/go-runc"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

// Main is the runc shim's own main.
//
// A shim starts every plug-in that the process has registered. In skiff's binary
// those are the daemon's, so the registry is emptied first and then holds the
// task service alone. Its flags likewise get a set of their own: other linked-in
// libraries have put theirs, of the same names, into the common one.
func Main(ctx context.Context) error {
	flag.CommandLine = flag.NewFlagSet(os.Args[0], flag.ExitOnError)
	registry.Reset()
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn:   newTaskService,
	})
	shim.RunShim(ctx, manager.NewShimManager("io.containerd.runc.v2"))
	return nil
}

func newTaskService(ic *plugin.InitContext) (any, error) {
	publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
	if err != nil {
		return nil, err
	}
	ending, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	service, err := task.NewTaskService(ic.Context, publisher.(shim.Publisher), ending.(shutdown.Service))
	// The service has set it to what reaps the shim's children.
	runc.Monitor = starter{runc.Monitor}
	return service, err
}
