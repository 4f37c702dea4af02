package devnet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// Down removes the cluster with everything that it has on this machine. It is
// no error when there is none.
func Down(ctx context.Context, home, name string, p *Progress) error {
	if _, err := Load(home, name); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := lock(home)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := Load(home, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return p.step("removing cluster "+name, func() error { return c.remove(ctx) })
}

// remove removes everything; each part is tried whatever becomes of the others,
// and the description goes last, so that a second try finds what is left.
func (c *Cluster) remove(ctx context.Context) error {
	if err := c.stop(ctx, 0); err != nil {
		return err
	}
	if err := errors.Join(c.removeContext(), os.RemoveAll(c.dir())); err != nil {
		return err
	}
	os.Remove(c.home) // succeeds when this was the last cluster
	return nil
}

// stop ends all nodes and takes the network away; the nodes' data stay.
func (c *Cluster) stop(ctx context.Context, grace time.Duration) error {
	var failed []error
	for i := range c.Nodes {
		failed = append(failed, c.stopNode(ctx, &c.Nodes[i], grace))
	}
	cg, err := findCgroups()
	if err != nil {
		return errors.Join(append(failed, err)...)
	}
	failed = append(failed, cg.remove(c.cgroup()))
	// Clusters of whatever home have their cgroups below this one.
	last := cg.removeEmpty(cgroupRoot)
	failed = append(failed, c.removeNetwork(last))
	if last {
		m, err := loadMachine(c.home)
		if err != nil {
			return errors.Join(append(failed, err)...)
		}
		failed = append(failed, m.undo())
	}
	return errors.Join(failed...)
}

// State is what is known of a node from outside.
type State string

// The states of a node.
const (
	Running     State = "running"
	Stopped     State = "stopped"
	Partitioned State = "partitioned"
)

// State returns the node's state.
func (c *Cluster) State(n *Node) State {
	switch {
	case c.InitPID(n) == 0:
		return Stopped
	case c.partitioned(n):
		return Partitioned
	}
	return Running
}

// change does something to a node under the cluster's lock.
func (c *Cluster) change(do func() error) error {
	unlock, err := lock(c.home)
	if err != nil {
		return err
	}
	defer unlock()
	return do()
}

// StopNode ends a node as a machine that is shut down, or, with a grace of 0,
// as one whose power fails.
func (c *Cluster) StopNode(ctx context.Context, n *Node, grace time.Duration) error {
	return c.change(func() error { return c.stopNode(ctx, n, grace) })
}

// StartNode starts a stopped node again. The command line is that of its first
// start; its credentials are in its data.
func (c *Cluster) StartNode(n *Node, binary string) error {
	return c.change(func() error {
		if c.InitPID(n) != 0 {
			return fmt.Errorf("node %s is running", n.Name)
		}
		cg, err := findCgroups()
		if err != nil {
			return err
		}
		u := &up{Cluster: c, options: UpOptions{Binary: binary}, cgroups: cg}
		if c.isServer(n) {
			return u.startNode(n, cg, binary, u.serverCommand(n))
		}
		return u.startNode(n, cg, binary, u.agentCommand(n))
	})
}

// RestartSkiff restarts the skiff process of a running node, whose pods go on,
// and returns when the new one is ready.
func (c *Cluster) RestartSkiff(ctx context.Context, n *Node) error {
	return c.change(func() error {
		pid := c.InitPID(n)
		if pid == 0 {
			return fmt.Errorf("node %s is not running", n.Name)
		}
		news, err := listen(c.notifySocket(n))
		if err != nil {
			return err
		}
		defer news.close()
		if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, readyTimeout)
		defer cancel()
		var ended *endedError
		if err := news.awaitReady(ctx); !errors.As(err, &ended) {
			return fmt.Errorf("waiting for the old process of %s to end: %w", n.Name, err)
		}
		if err := news.awaitReady(ctx); err != nil {
			return fmt.Errorf("restarting skiff on %s: %w; its log is %s", n.Name, err, c.LogFile(n))
		}
		return nil
	})
}

// Partition cuts a node's network, or restores it.
func (c *Cluster) Partition(n *Node, cut bool) error {
	return c.change(func() error { return c.setPartitioned(n, cut) })
}
