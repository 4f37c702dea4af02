// Package agent runs a node that joins a server on another machine.
package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apis/builtin"
	"skiff/internal/client/remote"
	"skiff/internal/cluster"
	"skiff/internal/cluster/node"
)

// Run runs the node until ctx ends or a part of it fails.
func Run(ctx context.Context, c cluster.AgentConfig) error {
	c = c.WithDefaults()
	if err := check(c); err != nil {
		return err
	}
	ca, err := authority(ctx, c)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	credentials, err := join(ctx, c, ca)
	if err != nil {
		return err
	}
	go credentials.maintain(ctx)
	config := &rest.Config{
		Host: c.Server, QPS: -1, UserAgent: "skiff-agent/" + node.Version,
		TLSClientConfig: rest.TLSClientConfig{CAData: ca, CertFile: credentials.client.file, KeyFile: credentials.client.file},
	}
	scheme := builtin.NewScheme()
	nodeSet, err := remote.Connect(ctx, config, scheme, remote.Options{ByObject: map[client.Object]cache.ByObject{
		// The Node authorizer shows a kubelet its own pods only.
		&corev1.Pod{}: {Field: fields.OneTermEqualSelector("spec.nodeName", c.Node.Name)},
	}}, c.Log)
	if err != nil {
		return err
	}
	if c.Ready != nil {
		c.Ready()
	}
	return node.Run(ctx, node.Config{
		NodeConfig: c.Node, ClusterCIDR: c.ClusterCIDR, ServiceCIDR: c.ServiceCIDR,
		Node: nodeSet, Network: nodeSet,
		ServingCert: credentials.servingCertificate,
		ClientCA:    roots, Log: c.Log,
	})
}

func check(c cluster.AgentConfig) error {
	u, err := url.Parse(c.Server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("--server %q: it must look like https://host:6443", c.Server)
	}
	if c.Node.Name == "" {
		return errors.New("the node has no name: set --node-name")
	}
	if !c.Node.IP.IsValid() {
		return errors.New("the node has no address: set --node-ip")
	}
	return nil
}

func netIP(a netip.Addr) net.IP { return a.AsSlice() }
