package daemon

import (
	"context"
	"path/filepath"

	"skiff/internal/containerd/daemon/shim"
)

// Main returns containerd's or the shim's main function when the arguments of
// this process (the program's name first) ask for one, and otherwise nil. Both
// read the arguments and handle signals themselves; the shim ends the process
// itself when it fails.
func Main(args []string) func(context.Context) error {
	switch {
	case filepath.Base(args[0]) == "containerd-shim-runc-v2",
		// A shim starts itself again by its file, not by the link's name.
		len(args) > 1 && args[1] == "-namespace":
		return shim.Main
	case len(args) > 1 && args[1] == "containerd":
		return func(ctx context.Context) error { return run(ctx, args[2:]) }
	}
	return nil
}
