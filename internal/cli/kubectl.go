package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	componentcli "k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	"k8s.io/kubectl/pkg/cmd/util"

	"skiff/internal/cluster/devnet"
)

func newKubectl(s Streams) *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl",
		Short: "Talk to a cluster with upstream's kubectl",
		Long: `Talk to a cluster with upstream's kubectl, which is part of this program.

The cluster is the one that --kubeconfig or KUBECONFIG name; else the
development cluster that SKIFF_CLUSTER names; else the only development
cluster; else the server on this machine; else kubectl's own default.`,
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			return runKubectl(c.Context(), s, args)
		},
	}
}

// runKubectl runs kubectl in this process. Where kubectl would end the process
// it returns an ExitError.
func runKubectl(ctx context.Context, s Streams, args []string) (err error) {
	streams := genericiooptions.IOStreams{In: s.In, Out: s.Out, ErrOut: s.Err}
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().
		WithDiscoveryBurst(300).WithDiscoveryQPS(50).WithWarningPrinter(streams)
	path, err := findKubeconfig(args)
	if err != nil {
		return err
	}
	if path != "" {
		flags.KubeConfig = &path
	}
	// The command reads them itself, unless an alias of the user's kuberc has
	// replaced them.
	os.Args = append([]string{"kubectl"}, args...)
	command := cmd.NewDefaultKubectlCommandWithArgs(cmd.KubectlOptions{
		PluginHandler: cmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     os.Args,
		ConfigFlags:   flags,
		IOStreams:     streams,
	})
	tellVersion(command, flags, s)
	command.SetContext(ctx)

	defer func() {
		if exit, ok := recover().(ExitError); ok {
			err = exit
		}
	}()
	util.BehaviorOnFatal(func(message string, code int) {
		if message != "" {
			fmt.Fprintln(s.Err, strings.TrimRight(message, "\n"))
		}
		panic(ExitError{Code: code})
	})
	util.CheckErr(componentcli.RunNoErrOutput(command))
	return nil
}

// findKubeconfig returns the kubeconfig that kubectl uses when neither its
// arguments nor the environment name one. A development cluster that does not
// run is an error: its addresses would be somebody else's.
func findKubeconfig(args []string) (string, error) {
	if os.Getenv("KUBECONFIG") != "" {
		return "", nil
	}
	for _, a := range args {
		if a == "--" {
			break
		}
		if a == "--kubeconfig" || strings.HasPrefix(a, "--kubeconfig=") {
			return "", nil
		}
	}
	c, err := onlyCluster()
	switch {
	case err == nil && c != nil && c.State(&c.Nodes[0]) == devnet.Stopped:
		return "", fmt.Errorf("cluster %s does not run; start it with: skiff up%s", c.Name, nameArg(c))
	case err == nil && c != nil:
		return c.Kubeconfig(), nil
	case clusterNameOr("") != "":
		return "", err
	}
	if _, err := os.Stat(adminKubeconfig); err == nil {
		return adminKubeconfig, nil
	}
	return "", nil
}
