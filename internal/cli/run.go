// Package cli is skiff's command line, one file per command. Commands parse
// their flags, call the package that does the work, and print; they decide
// nothing that another caller would need, too.
package cli

import (
	"context"
	"io"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"skiff/internal/containerd/daemon"
)

// Streams are what a command reads from and writes to.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// ExitError ends the program with a code and without a further message: the
// one who returned it has said what there is to say.
type ExitError struct{ Code int }

func (e ExitError) Error() string { return "exit status " + strconv.Itoa(e.Code) }

// Role is what a process of this binary is. Everything but a command handles signals
// itself.
type Role int

const (
	RoleCommand Role = iota
	roleContainerd
	roleShim
)

// RoleOf tells from a process's arguments, the program's name included, what it
// is to be. The binary answers to the names of the programs it contains, so
// that a link is all it takes to install them.
func RoleOf(args []string) Role {
	switch {
	case filepath.Base(args[0]) == "containerd-shim-runc-v2",
		// A shim starts itself again by its file, not by the link's name.
		len(args) > 1 && args[1] == "-namespace":
		return roleShim
	case len(args) > 1 && args[1] == "containerd":
		return roleContainerd
	}
	return RoleCommand
}

// Run does what args, the program's name first, say.
func Run(ctx context.Context, args []string, s Streams) error {
	switch RoleOf(args) {
	case roleShim:
		daemon.Shim(ctx)
		return nil
	case roleContainerd:
		return daemon.Run(ctx, args[2:])
	}
	root := newRoot(s)
	root.SetArgs(args[1:])
	return root.ExecuteContext(ctx)
}

func newRoot(s Streams) *cobra.Command {
	root := &cobra.Command{
		Use:           "skiff",
		Short:         "Kubernetes in one program",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.AddCommand(
		newVersion(),
	)
	return root
}
