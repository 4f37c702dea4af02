package devnet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/internal/cluster/jointoken"
)

// readyTimeout is how long a cluster may take from one step to the next.
const readyTimeout = time.Minute

// UpOptions say what Up makes.
type UpOptions struct {
	// Home holds the clusters (default DefaultHome), Name names this one.
	Home, Name string
	// Nodes is how many there are to be. A cluster that has fewer gets more;
	// one that has more keeps them.
	Nodes    int
	Isolated bool
	// Subnet is the nodes' network; the zero value chooses a free one.
	Subnet netip.Prefix
	// Binary is the skiff program that the nodes run.
	Binary string
	// ServerArgs and AgentArgs are further arguments of skiff server and of
	// every skiff agent.
	ServerArgs, AgentArgs []string
	Progress              *Progress
}

// Up makes a cluster, or starts again what of it does not run, and returns when
// every node is Ready and DNS answers. When that fails, a new cluster is
// removed again, and of one that was there the nodes that Up started are
// stopped.
func Up(ctx context.Context, o UpOptions) (*Cluster, error) {
	if err := checkName(o.Name); err != nil {
		return nil, err
	}
	unlock, err := lock(o.Home)
	if err != nil {
		return nil, err
	}
	defer unlock()
	cg, err := preflight(o.Home, o.Nodes)
	if err != nil {
		return nil, err
	}
	m, err := loadMachine(o.Home)
	if err != nil {
		return nil, err
	}
	c, isNew, err := o.describe()
	if err != nil {
		return nil, err
	}
	if err := c.checkBridge(); err != nil {
		return nil, err
	}
	u := &up{Cluster: c, options: o, cgroups: cg, machine: m}
	if err := u.run(ctx); err != nil {
		err = errors.Join(err, u.lastWords())
		// The caller may be ending; the clean-up is done all the same.
		ctx := context.WithoutCancel(ctx)
		if isNew {
			return nil, errors.Join(err, c.remove(ctx))
		}
		return nil, errors.Join(err, u.undo(ctx))
	}
	return c, nil
}

// describe loads the cluster or describes a new one.
func (o *UpOptions) describe() (c *Cluster, isNew bool, err error) {
	c, err = Load(o.Home, o.Name)
	switch {
	case err == nil:
		if o.Subnet.IsValid() && o.Subnet.Masked() != c.Subnet.Masked() {
			return nil, false, fmt.Errorf("cluster %s has the subnet %s, which cannot be changed; remove it first (skiff down --name %s)", c.Name, c.Subnet, c.Name)
		}
		if o.Isolated != c.Isolated {
			return nil, false, fmt.Errorf("cluster %s was made with isolated=%t, which cannot be changed; remove it first (skiff down --name %s)", c.Name, c.Isolated, c.Name)
		}
		c.grow(o.Nodes)
		return c, false, checkSubnet(c.Subnet, len(c.Nodes))
	case !errors.Is(err, fs.ErrNotExist):
		return nil, false, err
	}
	subnet := o.Subnet
	if !subnet.IsValid() {
		others, err := List(o.Home)
		if err != nil {
			return nil, false, err
		}
		if subnet, err = freeSubnet(others); err != nil {
			return nil, false, err
		}
	}
	return newCluster(o.Home, o.Name, o.Nodes, subnet, o.Isolated), true, checkSubnet(subnet, o.Nodes)
}

// up is one run of Up.
type up struct {
	*Cluster
	options UpOptions
	cgroups *cgroups
	machine *machine
	client  *kubernetes.Clientset
	// started are the nodes that this run has started.
	started []*Node
	// token lets agents join; it is made when the first one needs it.
	token string
}

func (u *up) run(ctx context.Context) error {
	server := &u.Nodes[0]
	step := u.options.Progress.step
	if err := step(fmt.Sprintf("network %s on bridge %s", u.Subnet, u.bridge()), func() error {
		return u.prepareMachine()
	}); err != nil {
		return err
	}
	if err := u.startServer(ctx, server); err != nil {
		return err
	}
	if err := step("kubeconfig context "+u.ContextName(), u.connectUser); err != nil {
		return err
	}
	for i := range u.Nodes[1:] {
		n := &u.Nodes[i+1]
		if u.InitPID(n) != 0 {
			continue
		}
		if err := step("agent "+n.Name+" at "+n.IP.String(), func() error { return u.startAgent(ctx, n) }); err != nil {
			return err
		}
	}
	if err := step("nodes Ready", func() error {
		ctx, cancel := context.WithTimeout(ctx, readyTimeout)
		defer cancel()
		return u.awaitNodes(ctx, u.client)
	}); err != nil {
		return err
	}
	return step("DNS answering", func() error {
		ctx, cancel := context.WithTimeout(ctx, readyTimeout)
		defer cancel()
		return u.awaitDNS(ctx, server)
	})
}

func (u *up) prepareMachine() error {
	if err := u.save(); err != nil {
		return fmt.Errorf("writing the cluster's description: %w", err)
	}
	for _, d := range privateDirs {
		if err := u.machine.makeDir(d.To); err != nil {
			return fmt.Errorf("making a directory for nodes to mount their own over: %w", err)
		}
	}
	return u.makeNetwork(u.machine)
}

// startServer starts the first node and returns when its API server is ready.
func (u *up) startServer(ctx context.Context, n *Node) error {
	if u.InitPID(n) != 0 {
		return nil
	}
	if err := os.MkdirAll(u.nodeDir(n), 0o700); err != nil {
		return err
	}
	news, err := listen(u.notifySocket(n))
	if err != nil {
		return err
	}
	defer news.close()
	u.started = append(u.started, n)
	if err := u.options.Progress.step("namespaces of "+n.Name+" at "+n.IP.String(), func() error {
		return u.startNode(n, u.cgroups, u.options.Binary, u.serverCommand(n))
	}); err != nil {
		return err
	}
	return u.options.Progress.step("server ready", func() error {
		ctx, cancel := context.WithTimeout(ctx, readyTimeout)
		defer cancel()
		return news.awaitReady(ctx)
	})
}

func (u *up) startAgent(ctx context.Context, n *Node) error {
	if u.token == "" {
		token := jointoken.New()
		secret := token.Object("development cluster "+u.Name, time.Now().Add(jointoken.DefaultTTL))
		if _, err := u.client.CoreV1().Secrets(secret.Namespace).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("making a bootstrap token: %w", err)
		}
		u.token = token.String()
	}
	if err := os.MkdirAll(u.nodeDir(n), 0o700); err != nil {
		return err
	}
	u.started = append(u.started, n)
	return u.startNode(n, u.cgroups, u.options.Binary, u.agentCommand(n))
}

// undo stops what this run has started of a cluster that was there before; when
// that is all of it, its network goes, too.
func (u *up) undo(ctx context.Context) error {
	var failed []error
	for _, n := range u.started {
		failed = append(failed, u.stopNode(ctx, n, 0))
	}
	if u.InitPID(&u.Nodes[0]) == 0 {
		failed = append(failed, u.stop(ctx, 0))
	}
	return errors.Join(failed...)
}

// nodeArgs are what server and agent have in common. The disk is the user's, and
// may be nearly full with other things.
func (u *up) nodeArgs(n *Node) []string {
	return []string{
		"--node-name", n.Name,
		"--node-ip", n.IP.String(),
		"--cgroup-root", u.nodeCgroup(n),
		"--eviction-hard", "memory.available<100Mi",
		"--image-gc-high-threshold", "100",
	}
}

func (u *up) serverCommand(n *Node) []string {
	command := append([]string{u.options.Binary, "server", "--tls-name", u.gateway().String()}, u.nodeArgs(n)...)
	return append(command, u.options.ServerArgs...)
}

func (u *up) agentCommand(n *Node) []string {
	command := append([]string{u.options.Binary, "agent", "--server", u.Server(), "--ca-file", u.CAFile()}, u.nodeArgs(n)...)
	if u.token != "" {
		command = append(command, "--token", u.token)
	}
	return append(command, u.options.AgentArgs...)
}

// connectUser writes the cluster's kubeconfig and authority, merges the context
// into the user's kubeconfig, and makes the client.
func (u *up) connectUser() error {
	admin, err := u.adminKubeconfig()
	if err != nil {
		return err
	}
	if err := clientcmd.WriteToFile(*admin, u.Kubeconfig()); err != nil {
		return fmt.Errorf("writing the cluster's kubeconfig: %w", err)
	}
	ca := admin.Clusters[u.ContextName()].CertificateAuthorityData
	if err := os.WriteFile(u.CAFile(), ca, 0o644); err != nil {
		return fmt.Errorf("writing the cluster's certificate authority: %w", err)
	}
	if err := u.addContext(admin); err != nil {
		return err
	}
	u.client, err = u.Client()
	return err
}

// lastWords is the end of each node's log, for a cluster that did not come up.
func (u *up) lastWords() error {
	const lines = 15
	var said []error
	for i := range u.Nodes {
		n := &u.Nodes[i]
		text, err := os.ReadFile(u.LogFile(n))
		if err != nil {
			continue
		}
		all := strings.Split(strings.TrimSpace(string(text)), "\n")
		said = append(said, fmt.Errorf("the end of the log of node %s:\n  %s", n.Name, strings.Join(all[max(0, len(all)-lines):], "\n  ")))
	}
	return errors.Join(said...)
}

// Socket is the path by which the machine reaches the container runtime of a
// running node.
func (c *Cluster) Socket(n *Node) (string, error) {
	pid := c.InitPID(n)
	if pid == 0 {
		return "", fmt.Errorf("node %s is not running; start it with: skiff node start %s", n.Name, n.Name)
	}
	return filepath.Join("/proc", fmt.Sprint(pid), "root/run/skiff/containerd.sock"), nil
}
