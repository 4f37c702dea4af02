package devnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"golang.org/x/sys/unix"
)

// clusterDNS is the address of the DNS Service.
var clusterDNS = netip.MustParseAddr("10.96.0.10")

// Client returns a client with the administrator's rights.
func (c *Cluster) Client() (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's kubeconfig: %w", err)
	}
	return kubernetes.NewForConfig(config)
}

// awaitNodes returns when all nodes are Ready. The error says which are not,
// and why.
func (c *Cluster) awaitNodes(ctx context.Context, client kubernetes.Interface) error {
	waiting := make(map[string]string, len(c.Nodes))
	for _, n := range c.Nodes {
		waiting[n.Name] = "it has not registered"
	}
	for ctx.Err() == nil {
		watch, err := client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("watching nodes: %w", err)
		}
		for event := range watch.ResultChan() {
			node, ok := event.Object.(*corev1.Node)
			if !ok {
				break
			}
			if why := notReady(node); why != "" {
				if _, ours := waiting[node.Name]; ours {
					waiting[node.Name] = why
				}
				continue
			}
			delete(waiting, node.Name)
			if len(waiting) == 0 {
				watch.Stop()
				return nil
			}
		}
		watch.Stop()
	}
	var why []error
	for name, reason := range waiting {
		why = append(why, fmt.Errorf("node %s is not Ready: %s", name, reason))
	}
	return errors.Join(why...)
}

// notReady says why a node is not Ready; it is empty for one that is.
func notReady(node *corev1.Node) string {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			if c.Status == corev1.ConditionTrue {
				return ""
			}
			return strings.TrimSpace(c.Reason + ": " + c.Message)
		}
	}
	return "it reports no condition Ready"
}

// awaitDNS returns when the cluster's DNS answers a node of the cluster.
func (c *Cluster) awaitDNS(ctx context.Context, n *Node) error {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialInside(ctx, c.InitPID(n), network, netip.AddrPortFrom(clusterDNS, 53).String())
	}}
	const name = "kubernetes.default.svc.cluster.local."
	var last error
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		_, last = resolver.LookupHost(try, name)
		cancel()
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("asking %s on node %s: %w", clusterDNS, n.Name, last)
}

// dialInside connects from the network namespace of a process.
func dialInside(ctx context.Context, pid int, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// The thread is never unlocked: it ends with the goroutine instead of
		// carrying the foreign namespace on.
		runtime.LockOSThread()
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			done <- result{err: err}
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{err: fmt.Errorf("entering a node's network namespace: %w", err)}
			return
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
