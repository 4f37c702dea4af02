package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"skiff/internal/cluster/devnet"
)

func newNode() *cobra.Command {
	var f clusterFlags
	cmd := &cobra.Command{
		Use:   "node",
		Short: "List, stop, start and cut off the nodes of a development cluster",
	}
	list := &cobra.Command{
		Use:   "list",
		Short: "List the nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.load()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "NAME\tADDRESS\tSTATE\tLOG")
			for i := range c.Nodes {
				n := &c.Nodes[i]
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", n.Name, n.IP, c.State(n), c.LogFile(n))
			}
			return w.Flush()
		},
	}
	f.add(list)

	var grace time.Duration
	stop := newNodeAction("stop", "Shut a node down; with --grace 0 as if its power failed", func(ctx context.Context, c *devnet.Cluster, n *devnet.Node) error {
		return c.StopNode(ctx, n, grace)
	})
	stop.Flags().DurationVar(&grace, "grace", 10*time.Second, "how long the node may take to end by itself")
	cmd.AddCommand(
		list,
		stop,
		newNodeAction("start", "Start a stopped node", func(_ context.Context, c *devnet.Cluster, n *devnet.Node) error {
			return startNode(c, n)
		}),
		newNodeAction("restart", "Restart a node's skiff process; its pods go on", func(ctx context.Context, c *devnet.Cluster, n *devnet.Node) error {
			return c.RestartSkiff(ctx, n)
		}),
		newNodeAction("partition", "Cut a node's network off", func(_ context.Context, c *devnet.Cluster, n *devnet.Node) error {
			return c.Partition(n, true)
		}),
		newNodeAction("heal", "Restore the network of a node that was cut off", func(_ context.Context, c *devnet.Cluster, n *devnet.Node) error {
			return c.Partition(n, false)
		}),
	)
	return cmd
}

// newNodeAction makes a command that does something to one node.
func newNodeAction(verb, short string, do func(context.Context, *devnet.Cluster, *devnet.Node) error) *cobra.Command {
	var f clusterFlags
	cmd := &cobra.Command{
		Use:   verb + " NODE",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.load()
			if err != nil {
				return err
			}
			n, err := c.Node(args[0])
			if err != nil {
				return err
			}
			return do(cmd.Context(), c, n)
		},
	}
	f.add(cmd)
	return cmd
}

func newNodeInit() *cobra.Command {
	return &cobra.Command{
		Use:    "node-init NODE",
		Short:  "Be process 1 of a development node",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return devnet.Init(slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)).With("node", args[0]))
		},
	}
}

func startNode(c *devnet.Cluster, n *devnet.Node) error {
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	return c.StartNode(n, binary)
}
