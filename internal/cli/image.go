package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"skiff/internal/cluster/devnet"
	"skiff/internal/containerd"
	"skiff/internal/images"
)

// imageTarget says whose images a command is about.
type imageTarget struct {
	home, name, socket string
}

func (t *imageTarget) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.home, "home", clusterHome(), "directory of the development clusters (environment: SKIFF_HOME)")
	cmd.Flags().StringVar(&t.name, "name", "", "development cluster (default: SKIFF_CLUSTER, else the only one, else this machine)")
	cmd.Flags().StringVar(&t.socket, "socket", "", "containerd socket of a single node instead")
}

// nodeStore is a node's image store.
type nodeStore struct {
	node   string
	socket string
}

// stores are the stores of the target: those of all running nodes of a
// development cluster, or this machine's.
func (t *imageTarget) stores() ([]nodeStore, error) {
	if t.socket != "" {
		return []nodeStore{{node: "this machine", socket: t.socket}}, nil
	}
	cluster, err := onlyCluster()
	if t.name != "" {
		f := clusterFlags{home: t.home, name: t.name}
		cluster, err = f.load()
	}
	if err != nil {
		return nil, err
	}
	if cluster == nil {
		local, err := containerd.Config{DataDir: "/var/lib/skiff"}.Defaults()
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(local.Socket()); err != nil {
			return nil, errors.New("there is neither a development cluster nor a node on this machine; start one with skiff up, or skiff server or skiff agent")
		}
		return []nodeStore{{node: "this machine", socket: local.Socket()}}, nil
	}
	var stores []nodeStore
	for i := range cluster.Nodes {
		n := &cluster.Nodes[i]
		if cluster.State(n) == devnet.Stopped {
			continue
		}
		socket, err := cluster.Socket(n)
		if err != nil {
			return nil, err
		}
		stores = append(stores, nodeStore{node: n.Name, socket: socket})
	}
	if len(stores) == 0 {
		return nil, fmt.Errorf("no node of cluster %s is running; start it with: skiff up%s", cluster.Name, nameArg(cluster))
	}
	return stores, nil
}

func newImage() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Bring images into a cluster without a registry"}
	cmd.AddCommand(newImageImport(), newImageList())
	return cmd
}

func newImageImport() *cobra.Command {
	var (
		target imageTarget
		as     string
	)
	cmd := &cobra.Command{
		Use:   "import FILE...",
		Short: "Load OCI or Docker archives into every node",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			stores, err := target.stores()
			if err != nil {
				return err
			}
			if as != "" && len(files) > 1 {
				return errors.New("--as names one image; import one archive with it")
			}
			for _, path := range files {
				if err := importFile(cmd.Context(), cmd.OutOrStdout(), stores, path, as); err != nil {
					return err
				}
			}
			return nil
		},
	}
	target.add(cmd)
	cmd.Flags().StringVar(&as, "as", "", "name of the image, for an archive that names none")
	return cmd
}

// importFile loads one archive into all stores at once.
func importFile(ctx context.Context, out io.Writer, stores []nodeStore, path, as string) error {
	names := make([][]string, len(stores))
	work, ctx := errgroup.WithContext(ctx)
	for i, s := range stores {
		work.Go(func() error {
			var err error
			if names[i], err = importInto(ctx, s.socket, path, as); err != nil {
				return fmt.Errorf("%s: %s: %w", s.node, path, err)
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	for i, s := range stores {
		if _, err := fmt.Fprintf(out, "%s: imported %s\n", s.node, strings.Join(names[i], ", ")); err != nil {
			return err
		}
	}
	return nil
}

func importInto(ctx context.Context, socket, path, as string) (names []string, err error) {
	archive, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	store, err := images.Open(socket)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return store.Import(ctx, archive, as)
}

func newImageList() *cobra.Command {
	var target imageTarget
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the images of every node",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			stores, err := target.stores()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "NODE\tIMAGE\tSIZE\tID")
			for _, s := range stores {
				list, err := listImages(cmd.Context(), s.socket)
				if err != nil {
					return fmt.Errorf("%s: %w", s.node, err)
				}
				for _, i := range list {
					fmt.Fprintf(w, "%s\t%s\t%.1f MB\t%.19s\n", s.node, strings.Join(i.Names, ","), float64(i.Size)/1e6, i.ID)
				}
			}
			return w.Flush()
		},
	}
	target.add(cmd)
	return cmd
}

func listImages(ctx context.Context, socket string) (list []images.Image, err error) {
	store, err := images.Open(socket)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return store.List(ctx)
}
