package controllertest

import (
	"context"
	"io"
	"net"
	"sync"

	"k8s.io/client-go/rest"

	skiffclient "skiff/internal/client"
	"skiff/internal/client/remote"
	"skiff/internal/controllers/index"
)

// Wire carries connections to the API server until they are cut.
type Wire struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// Remote returns a view of the cluster over the network, until the test ends,
// and the wire that it goes through.
func (c *Cluster) Remote() (skiffclient.Set, *Wire) {
	c.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	w := &Wire{listener: l, target: c.Address.String(), conns: map[net.Conn]struct{}{}}
	go w.accept()
	ctx, cancel := context.WithCancel(context.Background())
	c.t.Cleanup(func() {
		cancel()
		l.Close()
		w.Cut()
	})
	config := rest.CopyConfig(c.Config)
	config.Host = "https://" + l.Addr().String()
	set, err := remote.Connect(ctx, config, c.Scheme, remote.Options{}, c.Logger())
	if err != nil {
		c.t.Fatal(err)
	}
	if err := index.Add(ctx, set.Cache); err != nil {
		c.t.Fatal(err)
	}
	return set, w
}

// Cut breaks all connections; new ones can be made at once.
func (w *Wire) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.Close()
	}
	clear(w.conns)
}

func (w *Wire) accept() {
	for {
		client, err := w.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", w.target)
		if err != nil {
			client.Close()
			continue
		}
		w.mu.Lock()
		w.conns[client], w.conns[server] = struct{}{}, struct{}{}
		w.mu.Unlock()
		go w.carry(client, server)
		go w.carry(server, client)
	}
}

func (w *Wire) carry(from, to net.Conn) {
	io.Copy(to, from)
	from.Close()
	to.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, from)
}
