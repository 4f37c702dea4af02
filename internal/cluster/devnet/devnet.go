// Package devnet makes clusters for development on one Linux machine. Each node
// is a set of namespaces (network, mount, PID and UTS) on the machine's own
// root file system with private state directories, an address on a private
// bridge and a process 1 of its own, which runs the same `skiff server` or
// `skiff agent` as a real machine does.
//
// What makes up a cluster on this machine, and what Down therefore removes:
//
//   - the processes of each node, which end with its process 1;
//   - the bridge, the nodes' links, the blackhole routes and the nftables table;
//   - the cgroups below /skiff/<cluster>;
//   - the kubeconfig context skiff-<cluster>;
//   - what machine.go lists, with the last cluster;
//   - the directory <home>/<cluster> with everything that the nodes keep.
//
// Mounts live in the nodes' own namespaces and end with them.
package devnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// DefaultHome is where clusters are kept unless the user says otherwise.
const DefaultHome = "/var/lib/skiff-dev"

// Cluster is a development cluster as <home>/<name>/cluster.json describes it.
type Cluster struct {
	Name string `json:"name"`
	// Subnet is the nodes' network; its first address is the machine's own.
	Subnet netip.Prefix `json:"subnet"`
	// Isolated nodes have no way out of the subnet.
	Isolated bool   `json:"isolated"`
	Nodes    []Node `json:"nodes"`

	home string
}

// Node is one node of a cluster. The first runs the control plane, too.
type Node struct {
	Name string     `json:"name"`
	IP   netip.Addr `json:"ip"`
}

var clusterName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$`)

// newCluster describes a cluster of n nodes in the subnet.
func newCluster(home, name string, n int, subnet netip.Prefix, isolated bool) *Cluster {
	c := &Cluster{Name: name, Subnet: subnet, Isolated: isolated, home: home}
	c.grow(n)
	return c
}

// grow adds nodes until there are n.
func (c *Cluster) grow(n int) {
	for i := len(c.Nodes) + 1; i <= n; i++ {
		c.Nodes = append(c.Nodes, Node{Name: fmt.Sprintf("%s-%d", c.Name, i), IP: c.address(i + 1)})
	}
}

// address returns the i-th address of the subnet.
func (c *Cluster) address(i int) netip.Addr {
	addr := c.Subnet.Masked().Addr()
	for range i {
		addr = addr.Next()
	}
	return addr
}

// gateway is the machine's own address on the bridge.
func (c *Cluster) gateway() netip.Addr { return c.address(1) }

func checkName(name string) error {
	if !clusterName.MatchString(name) {
		return fmt.Errorf("%q is not a cluster's name: it must be at most 32 small letters, digits and dashes", name)
	}
	return nil
}

// Load reads a cluster. The error is fs.ErrNotExist where there is none.
func Load(home, name string) (*Cluster, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	path := filepath.Join(home, name, "cluster.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := &Cluster{home: home}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return c, nil
}

// List returns the clusters in home, ordered by name.
func List(home string) ([]*Cluster, error) {
	entries, err := os.ReadDir(home)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var list []*Cluster
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		c, err := Load(home, e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

func (c *Cluster) save() error {
	if err := os.MkdirAll(c.dir(), 0o700); err != nil {
		return err
	}
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(c.dir(), "cluster.json")
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Node returns the node of that name.
func (c *Cluster) Node(name string) (*Node, error) {
	i := slices.IndexFunc(c.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		names := make([]string, len(c.Nodes))
		for i, n := range c.Nodes {
			names[i] = n.Name
		}
		return nil, fmt.Errorf("cluster %s has no node %q; it has %v", c.Name, name, names)
	}
	return &c.Nodes[i], nil
}

func (c *Cluster) dir() string { return filepath.Join(c.home, c.Name) }

func (c *Cluster) nodeDir(n *Node) string { return filepath.Join(c.dir(), n.Name) }

// LogFile is where a node's skiff writes its log.
func (c *Cluster) LogFile(n *Node) string { return filepath.Join(c.nodeDir(n), "skiff.log") }

// cgroupRoot holds the cgroups of all clusters of the machine.
const cgroupRoot = "/skiff"

// cgroup is the path of the cluster's cgroup in every hierarchy.
func (c *Cluster) cgroup() string { return cgroupRoot + "/" + c.Name }

func (c *Cluster) nodeCgroup(n *Node) string { return c.cgroup() + "/" + n.Name }

// isServer reports whether the node runs the control plane.
func (c *Cluster) isServer(n *Node) bool { return n.Name == c.Nodes[0].Name }
