package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"skiff/internal/cluster/devnet"
)

// adminKubeconfig is where a server on the machine itself writes its
// administrator's kubeconfig.
const adminKubeconfig = "/var/lib/skiff/admin.kubeconfig"

// clusterFlags name a development cluster.
type clusterFlags struct {
	home, name string
}

func (f *clusterFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.home, "home", clusterHome(), "directory of the development clusters (environment: SKIFF_HOME)")
	cmd.Flags().StringVar(&f.name, "name", clusterNameOr("dev"), "name of the development cluster (environment: SKIFF_CLUSTER)")
}

func clusterHome() string {
	if home := os.Getenv("SKIFF_HOME"); home != "" {
		return home
	}
	return devnet.DefaultHome
}

func clusterNameOr(otherwise string) string {
	if name := os.Getenv("SKIFF_CLUSTER"); name != "" {
		return name
	}
	return otherwise
}

func (f *clusterFlags) load() (*devnet.Cluster, error) {
	c, err := devnet.Load(f.home, f.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no development cluster %q in %s; make one with: skiff up --name %s", f.name, f.home, f.name)
	}
	return c, err
}

// onlyCluster returns the development cluster that is meant when none is named
// on the command line: SKIFF_CLUSTER's, or the only one. It is nil where there
// is none, and an error where there are several.
func onlyCluster() (*devnet.Cluster, error) {
	if name := clusterNameOr(""); name != "" {
		f := clusterFlags{home: clusterHome(), name: name}
		return f.load()
	}
	all, err := devnet.List(clusterHome())
	if err != nil || len(all) == 0 {
		return nil, err
	}
	if len(all) > 1 {
		names := make([]string, len(all))
		for i, c := range all {
			names[i] = c.Name
		}
		return nil, fmt.Errorf("there are several development clusters (%s); say which with --name", strings.Join(names, ", "))
	}
	return all[0], nil
}
