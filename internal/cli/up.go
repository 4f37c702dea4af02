package cli

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"skiff/internal/cluster/devnet"
)

func newUp() *cobra.Command {
	var (
		f      clusterFlags
		o      devnet.UpOptions
		subnet string
	)
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Make a development cluster on this machine, or start it again",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Nodes < 1 {
				return fmt.Errorf("--nodes is %d; a cluster needs at least 1", o.Nodes)
			}
			if subnet != "" {
				var err error
				if o.Subnet, err = netip.ParsePrefix(subnet); err != nil {
					return fmt.Errorf("--subnet is %q; it must look like 172.30.0.0/24", subnet)
				}
			}
			binary, err := os.Executable()
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			o.Home, o.Name, o.Binary = f.home, f.name, binary
			o.Progress = &devnet.Progress{Out: out}
			fmt.Fprintf(out, "cluster %s\n", o.Name)
			c, err := devnet.Up(cmd.Context(), o)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(out, `
The cluster is up. Use it with
  skiff kubectl get nodes            or   kubectl --context %s get nodes
  skiff image import app.tar         to run an image of your own
Its nodes' logs are %s.
Remove it with
  skiff down%s
`, c.ContextName(), c.LogFile(&c.Nodes[0]), nameArg(c))
			return err
		},
	}
	f.add(cmd)
	cmd.Flags().IntVar(&o.Nodes, "nodes", 1, "number of nodes; the first runs the control plane, too")
	cmd.Flags().BoolVar(&o.Isolated, "isolated", false, "give the nodes no way out of this machine")
	cmd.Flags().StringVar(&subnet, "subnet", "", "the nodes' network (default: a free one of 172.30.0.0/16)")
	cmd.Flags().StringArrayVar(&o.ServerArgs, "server-arg", nil, "further argument of skiff server (can be repeated)")
	cmd.Flags().StringArrayVar(&o.AgentArgs, "agent-arg", nil, "further argument of every skiff agent (can be repeated)")
	return cmd
}

// nameArg is what a command line needs to name the cluster.
func nameArg(c *devnet.Cluster) string {
	if c.Name == "dev" {
		return ""
	}
	return " --name " + c.Name
}

func newDown() *cobra.Command {
	var f clusterFlags
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Remove a development cluster with everything it has on this machine",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return devnet.Down(cmd.Context(), f.home, f.name, &devnet.Progress{Out: cmd.OutOrStdout()})
		},
	}
	f.add(cmd)
	return cmd
}
