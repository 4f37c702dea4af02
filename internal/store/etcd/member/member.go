// Package member runs a member of an etcd cluster in this process. It is alone
// in its package because etcd's server is a heavy library.
package member

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// Options describe a member. All but TLS and Log are required; Cluster only at
// its first start.
type Options struct {
	// Name is unique in the cluster and stays the same.
	Name string
	// Dir holds the member's data. It must not be used by another engine.
	Dir string
	// PeerURL is where the other members reach this one.
	PeerURL string
	// ClientURL is where servers without a member, and backup tools, reach it.
	ClientURL string
	// Cluster has the peer URL of each member by its name, this one included:
	// only this one for a new cluster, what Join returned for an old one.
	Cluster map[string]string
	// Joining says that the cluster exists already.
	Joining bool
	// Token tells clusters apart which could reach each other by mistake.
	Token string
	// PeerTLS and ClientTLS are the certificate files for the two URLs, if they
	// are https. Both sides of a connection must show one of the authority's.
	PeerTLS, ClientTLS Files
	// Quota bounds the database in bytes; the default is 8 GiB.
	Quota int64
	// Log defaults to none.
	Log *slog.Logger
}

// Files are the paths of PEM files.
type Files struct{ CA, Cert, Key string }

func (f Files) info() transport.TLSInfo {
	return transport.TLSInfo{
		TrustedCAFile:  f.CA,
		CertFile:       f.Cert,
		KeyFile:        f.Key,
		ClientCertAuth: f.CA != "",
	}
}

const (
	// maxRequest leaves room for what Kubernetes' API server accepts.
	maxRequest = 8 << 20
	maxTxnOps  = 1024
	// snapshotEntries is how many raft entries are kept in memory at most
	// before a snapshot; etcd's default of ten thousand suits small values.
	snapshotEntries = 5000
	defaultQuota    = 8 << 30
)

// Member is a running member.
type Member struct {
	etcd *embed.Etcd
	// close is once because etcd's own, called twice, waits forever.
	close sync.Once
}

// Start runs a member and waits until it can serve, which for a member of
// several takes most of them. It goes on until Close.
func Start(ctx context.Context, o Options) (*Member, error) {
	config, err := o.config()
	if err != nil {
		return nil, fmt.Errorf("etcd member: %w", err)
	}
	e, err := embed.StartEtcd(config)
	if err != nil {
		return nil, fmt.Errorf("etcd member %s in %s: %w", o.Name, o.Dir, err)
	}
	m := &Member{etcd: e}
	select {
	case <-e.Server.ReadyNotify():
		return m, nil
	case err = <-e.Err():
	case <-e.Server.StopNotify():
		err = errors.New("it stopped; see its log")
	case <-ctx.Done():
		err = fmt.Errorf("not ready: %w; most members of the cluster must run and reach each other at their peer URLs", ctx.Err())
	}
	m.Close()
	return nil, fmt.Errorf("etcd member %s: %w", o.Name, err)
}

func (o Options) config() (*embed.Config, error) {
	peer, err := address("peer URL", o.PeerURL)
	if err != nil {
		return nil, err
	}
	client, err := address("client URL", o.ClientURL)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Quota == 0 {
		o.Quota = defaultQuota
	}
	c := embed.NewConfig()
	c.Name, c.Dir = o.Name, o.Dir
	c.ListenPeerUrls, c.AdvertisePeerUrls = peer, peer
	c.ListenClientUrls, c.AdvertiseClientUrls = client, client
	c.PeerTLSInfo, c.ClientTLSInfo = o.PeerTLS.info(), o.ClientTLS.info()
	c.InitialCluster = formatCluster(o.Cluster)
	c.InitialClusterToken = o.Token
	if o.Joining {
		c.ClusterState = embed.ClusterStateFlagExisting
	}
	c.QuotaBackendBytes = o.Quota
	c.MaxRequestBytes, c.MaxTxnOps = maxRequest, maxTxnOps
	c.SnapshotCount = snapshotEntries
	c.EnableGRPCGateway = false
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(core{log: o.Log}))
	return c, nil
}

func address(what, raw string) ([]url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Port() == "" {
		return nil, fmt.Errorf("%s %q: it must be like https://10.0.0.1:2380", what, raw)
	}
	return []url.URL{*u}, nil
}

// formatCluster writes members as etcd reads them.
func formatCluster(cluster map[string]string) string {
	var members []string
	for name, peer := range cluster {
		members = append(members, name+"="+peer)
	}
	slices.Sort(members)
	return strings.Join(members, ",")
}

// Client returns a client that calls the member without a network. Closing it
// leaves the member running.
func (m *Member) Client() *clientv3.Client { return v3client.New(m.etcd.Server) }

// Done is closed when the member has stopped, be it by itself.
func (m *Member) Done() <-chan struct{} { return m.etcd.Server.StopNotify() }

// Close stops the member. The cluster still counts it; see Leave.
func (m *Member) Close() { m.close.Do(m.etcd.Close) }

// Join announces a member to a cluster, through any of its members, and returns
// Options.Cluster for its start. A member that was announced before but never
// started is taken up again.
func Join(ctx context.Context, c *clientv3.Client, name, peerURL string) (map[string]string, error) {
	// What one member knows is enough, and is all there is while a cluster of
	// two waits for its second.
	list, err := c.MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		return nil, fmt.Errorf("join etcd: %w", err)
	}
	members := list.Members
	known := slices.ContainsFunc(members, func(m *etcdserverpb.Member) bool { return slices.Contains(m.PeerURLs, peerURL) })
	if !known {
		added, err := c.MemberAdd(ctx, []string{peerURL})
		if err != nil {
			return nil, fmt.Errorf("join etcd as %s: %w", peerURL, err)
		}
		members = added.Members
	}
	cluster := map[string]string{name: peerURL}
	for _, m := range members {
		if slices.Contains(m.PeerURLs, peerURL) {
			if m.Name != "" && m.Name != name {
				return nil, fmt.Errorf("join etcd: %s is the address of member %s; give it another or remove that member", peerURL, m.Name)
			}
			continue
		}
		if m.Name == name {
			return nil, fmt.Errorf("join etcd: there is a member %s already, at %v; choose another name or remove it", name, m.PeerURLs)
		}
		if m.Name == "" {
			return nil, fmt.Errorf("join etcd: member %x at %v has not started yet; wait for it or remove it", m.ID, m.PeerURLs)
		}
		cluster[m.Name] = m.PeerURLs[0]
	}
	return cluster, nil
}

// Leave takes a member out of its cluster, so that the others need not wait for
// it any more. It stops by itself then.
func Leave(ctx context.Context, c *clientv3.Client, name string) error {
	list, err := c.MemberList(ctx)
	if err != nil {
		return fmt.Errorf("leave etcd: %w", err)
	}
	for _, m := range list.Members {
		if m.Name == name {
			if _, err := c.MemberRemove(ctx, m.ID); err != nil {
				return fmt.Errorf("remove etcd member %s: %w", name, err)
			}
			return nil
		}
	}
	return fmt.Errorf("leave etcd: there is no member %s", name)
}
