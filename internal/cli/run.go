// Package cli is skiff's command line, one file per command. Commands parse
// their flags, call the package that does the work, and print; they decide
// nothing that another caller would need, too.
package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"skiff/internal/containerd/daemon"
	"skiff/internal/network/cni"
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

// Embedded returns the main function of one of the programs that this binary
// contains when args, the program's name first, ask for one, and otherwise nil.
// The binary answers to their names, so that a link is all it takes to install
// them. They handle signals themselves.
func Embedded(args []string) func(context.Context) error {
	switch name := filepath.Base(args[0]); name {
	case cni.Name, cni.Loopback:
		return func(context.Context) error {
			if code := cni.Main(name, os.Stdout); code != 0 {
				return ExitError{Code: code}
			}
			return nil
		}
	}
	return daemon.Main(args)
}

// Run does what args, the program's name first, say. The work ends when ctx
// does.
func Run(ctx context.Context, args []string, s Streams) error {
	if filepath.Base(args[0]) == "kubectl" {
		return runKubectl(ctx, s, args[1:])
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
		newUp(), newDown(), newNode(), newNodeInit(),
		newServer(), newAgent(), newToken(), newCloudController(),
		newKubectl(s), newImage(), newVersion(),
	)
	return root
}
