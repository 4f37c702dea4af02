// Command skiff-pod is what the container runtime starts for every pod: the CNI
// plugin and containerd's shim. The skiff binary contains it, as a file to be
// laid on the node: skiff itself would do, but it links much more, and each pod
// would pay for that with the time of several starts and a shim's memory.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"skiff/internal/containerd/daemon/shim"
	"skiff/internal/network/cni"
)

func main() {
	os.Exit(run())
}

// run does what the name under which the program was started says. A shim
// starts itself again by its file's name.
func run() int {
	switch name := filepath.Base(os.Args[0]); name {
	case cni.Name, cni.Loopback:
		return cni.Main(name, os.Stdout)
	}
	if err := shim.Main(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
