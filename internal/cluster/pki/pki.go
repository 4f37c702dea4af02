// Package pki makes and keeps a cluster's certificates and keys, in kubeadm's
// layout (ca.crt, apiserver.crt, sa.key …). They are made at the first start,
// read again at each later one, and renewed while the server runs.
//
// Invariants:
//
//  1. A private key is written once, before the first certificate for it, and
//     never replaced; renewal makes a new certificate for the same key. A crash
//     between two writes thus never leaves a pair that does not fit.
//  2. A certificate authority's key is never replaced on its own: everything
//     that trusts it would have to change. A key that is damaged, or missing
//     beside its certificate, is an error that says so.
//  3. Files appear whole or not at all. Keys are readable by the owner only.
package pki

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"skiff/internal/identity"
)

const (
	caValidity   = 10 * 365 * 24 * time.Hour
	leafValidity = 365 * 24 * time.Hour
	// renewBefore is how long before its end a certificate is renewed.
	renewBefore = 30 * 24 * time.Hour
	// backdate lets a certificate be used by machines whose clocks are late.
	backdate = 5 * time.Minute
)

// Options say which certificates are made.
type Options struct {
	// Dir is where the files are, e.g. /var/lib/skiff/pki. It is made if needed.
	Dir string
	// Names and IPs are what the API server is reached by, beside localhost, the
	// loopback addresses and the names of the kubernetes Service. IPs should
	// hold the Service's own address and the node's.
	Names []string
	IPs   []netip.Addr
	// ClusterDomain is the zone of Services; default cluster.local.
	ClusterDomain string
	// Clock tells the time; default: the real one.
	Clock clock.Clock
}

// Bundle is all that a server needs.
type Bundle struct {
	Dir string
	// CA signs serving and client certificates; FrontProxyCA those by which
	// the API server, as an aggregator, vouches for users it has authenticated.
	CA, FrontProxyCA *Authority
	// Serving is the API server's own certificate.
	Serving *Pair
	// KubeletClient is what the API server shows to kubelets, FrontProxyClient
	// what it shows to aggregated API servers.
	KubeletClient, FrontProxyClient *Pair
	// Admin is in system:masters; the others are the components' users.
	Admin, ControllerManager, Scheduler *Pair
	// ServiceAccountKey signs service account tokens.
	ServiceAccountKey *ecdsa.PrivateKey

	clock clock.Clock
	mu    struct {
		sync.Mutex
		pairs []*Pair
	}
}

// Open reads what is in o.Dir, makes what is missing and renews what is about
// to end or no longer fits o. An error names the file and what to do about it.
func Open(o Options) (*Bundle, error) {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.ClusterDomain == "" {
		o.ClusterDomain = "cluster.local"
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	b := &Bundle{Dir: o.Dir, clock: o.Clock}

	var authorities errgroup.Group
	authorities.Go(func() (err error) {
		b.CA, err = openAuthority(o.Dir, "ca", "kubernetes-ca", o.Clock)
		return err
	})
	authorities.Go(func() (err error) {
		b.FrontProxyCA, err = openAuthority(o.Dir, "front-proxy-ca", "front-proxy-ca", o.Clock)
		return err
	})
	authorities.Go(func() (err error) {
		b.ServiceAccountKey, err = openServiceAccountKey(o.Dir)
		return err
	})
	if err := authorities.Wait(); err != nil {
		return nil, err
	}

	var pairs errgroup.Group
	open := func(into **Pair, by *Authority, name string, s subject) {
		pairs.Go(func() (err error) {
			*into, err = b.open(by, name, s)
			return err
		})
	}
	open(&b.Serving, b.CA, "apiserver", servingSubject(o))
	open(&b.KubeletClient, b.CA, "apiserver-kubelet-client", client("kube-apiserver-kubelet-client", identity.GroupMasters))
	open(&b.FrontProxyClient, b.FrontProxyCA, "front-proxy-client", client("front-proxy-client"))
	open(&b.Admin, b.CA, "admin", client("kubernetes-admin", identity.GroupMasters))
	open(&b.ControllerManager, b.CA, "controller-manager", client("system:kube-controller-manager"))
	open(&b.Scheduler, b.CA, "scheduler", client("system:kube-scheduler"))
	if err := pairs.Wait(); err != nil {
		return nil, err
	}
	return b, nil
}

// Kubelet returns the certificates of the node that runs in the server's own
// process: the client certificate system:node:<name>, and a serving one for
// the node's name and addresses.
func (b *Bundle) Kubelet(name string, ips ...netip.Addr) (clientPair, serving *Pair, err error) {
	user := identity.NodePrefix + name
	if clientPair, err = b.open(b.CA, "kubelet-client", client(user, identity.GroupNodes)); err != nil {
		return nil, nil, err
	}
	s := client(user, identity.GroupNodes)
	s.server, s.client = true, false
	s.names, s.ips = []string{name}, ips
	if serving, err = b.open(b.CA, "kubelet-serving", s); err != nil {
		return nil, nil, err
	}
	return clientPair, serving, nil
}

// open returns the pair of that name and keeps it renewed from now on.
func (b *Bundle) open(by *Authority, name string, s subject) (*Pair, error) {
	p, err := openPair(b.Dir, name, by, s, b.clock)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.mu.pairs = append(b.mu.pairs, p)
	b.mu.Unlock()
	return p, nil
}

// path returns the file for name with the given ending.
func path(dir, name, ending string) string { return filepath.Join(dir, name+"."+ending) }

// writeFile writes a whole file or nothing, and makes it last.
func writeFile(file string, data []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %s: %w", file, err)
			_ = os.Remove(f.Name()) // it may have its new name already
		}
	}()
	if _, err = f.Write(data); err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
