package member

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"skiff/internal/store"
	"skiff/internal/store/enginetest"
	"skiff/internal/store/etcd"
	"skiff/internal/store/pebble"
)

// address returns a URL on this machine whose port is free.
func localURL(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func options(t *testing.T, name string) Options {
	t.Helper()
	o := Options{Name: name, Dir: t.TempDir(), PeerURL: localURL(t), ClientURL: localURL(t), Token: t.Name()}
	o.Cluster = map[string]string{name: o.PeerURL}
	return o
}

func start(t *testing.T, o Options) *Member {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	m, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// TestEngine runs the suite over one member, each test below a prefix of its
// own: by network and in process.
func TestEngine(t *testing.T) {
	o := options(t, "a")
	m := start(t, o)
	t.Run("network", func(t *testing.T) {
		enginetest.Run(t, func(t *testing.T) store.Engine {
			e, err := etcd.Open(t.Context(), etcd.Options{Endpoints: []string{o.ClientURL}, Prefix: "/" + t.Name()})
			if err != nil {
				t.Fatal(err)
			}
			return e
		})
	})
	t.Run("in-process", func(t *testing.T) {
		enginetest.Run(t, func(t *testing.T) store.Engine {
			return etcd.New(m.Client(), etcd.Options{Prefix: "/" + t.Name()})
		})
	})
}

// TestSnapshotBetweenEngines restores an etcd's snapshot into Pebble and back.
func TestSnapshotBetweenEngines(t *testing.T) {
	m := start(t, options(t, "a"))
	source := etcd.New(m.Client(), etcd.Options{Prefix: "/source"})
	defer source.Close()
	for i := range 2500 { // more than a page
		op := store.Op{Key: fmt.Sprintf("/registry/k%04d", i), Value: fmt.Append(nil, i), TTL: int64(i%2) * 3600}
		if _, err := source.Txn(t.Context(), op); err != nil {
			t.Fatal(err)
		}
	}
	var first bytes.Buffer
	if err := source.Snapshot(t.Context(), &first); err != nil {
		t.Fatalf("Snapshot of etcd: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "db")
	if err := pebble.Restore(pebble.Options{Dir: dir}, bytes.NewReader(first.Bytes())); err != nil {
		t.Fatalf("Restore into Pebble: %v", err)
	}
	middle, err := pebble.Open(pebble.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer middle.Close()
	var second bytes.Buffer
	if err := middle.Snapshot(t.Context(), &second); err != nil {
		t.Fatalf("Snapshot of Pebble: %v", err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("etcd's snapshot went through Pebble and came out different")
	}
	target := etcd.New(m.Client(), etcd.Options{Prefix: "/target"})
	defer target.Close()
	if err := store.Restore(t.Context(), target, &second, time.Now()); err != nil {
		t.Fatalf("Restore into etcd: %v", err)
	}
	if err := store.Restore(t.Context(), target, bytes.NewReader(first.Bytes()), time.Now()); err == nil {
		t.Error("a second Restore over the same keys went through")
	}
	i := 0
	_, err = target.Range(t.Context(), "", store.RangeOptions{}, func(kv store.KV) error {
		if kv.Key != fmt.Sprintf("/registry/k%04d", i) || string(kv.Value) != fmt.Sprint(i) {
			return fmt.Errorf("key %d is %s = %s", i, kv.Key, kv.Value)
		}
		i++
		return nil
	})
	if err != nil || i != 2500 {
		t.Errorf("after Restore: %d keys, %v, want 2500", i, err)
	}
}

// TestCluster grows to three members, loses one without losing anything, and
// lets it come back.
func TestCluster(t *testing.T) {
	a := options(t, "a")
	members := []*Member{start(t, a)}
	var endpoints []string
	all := []Options{a}
	for _, name := range []string{"b", "c"} {
		o := options(t, name)
		o.Joining = true
		var err error
		// etcd takes a new member only once the last one is in.
		eventually(t, func() error {
			o.Cluster, err = Join(t.Context(), client(t, a), name, o.PeerURL)
			return err
		})
		if again, err := Join(t.Context(), client(t, a), name, o.PeerURL); err != nil || len(again) != len(o.Cluster) {
			t.Errorf("a second Join before the start: %v, %v, want %v", again, err, o.Cluster)
		}
		members = append(members, start(t, o))
		all = append(all, o)
	}
	if _, err := Join(t.Context(), client(t, a), "c", localURL(t)); err == nil {
		t.Error("two members could have one name")
	}
	for _, o := range all[1:] {
		endpoints = append(endpoints, o.ClientURL)
	}
	e, err := etcd.Open(t.Context(), etcd.Options{Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	before, err := e.Txn(t.Context(), store.Op{Key: "/a", Value: []byte("1")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got := make(chan store.Event, 10)
	go e.Watch(ctx, "/", before, func(b store.Batch) error {
		for _, event := range b.Events {
			got <- event
		}
		return nil
	})

	members[0].Close() // perhaps the leader
	eventually(t, func() error {
		_, err := e.Txn(ctx, store.Op{Key: "/b", Value: []byte("2"), Expect: store.Any})
		return err
	})
	other, err := etcd.Open(ctx, etcd.Options{Endpoints: endpoints[1:]})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for _, key := range []string{"/a", "/b"} {
		if _, err := other.Get(ctx, key); err != nil {
			t.Errorf("Get(%s) without the first member: %v", key, err)
		}
	}
	select {
	case event := <-got:
		if event.Key != "/b" {
			t.Errorf("the watch got %+v, want /b", event)
		}
	case <-ctx.Done():
		t.Error("the watch did not survive the loss of a member")
	}

	a.Cluster, a.Joining = nil, false // what it knows on disk is enough
	back := start(t, a)
	c := back.Client()
	defer c.Close()
	if r, err := c.Get(ctx, "/b"); err != nil || len(r.Kvs) != 1 {
		t.Errorf("the member that came back has %v, %v", r, err)
	}
	// etcd trusts the member that came back after five seconds.
	eventually(t, func() error { return Leave(ctx, c, "c") })
	select {
	case <-members[2].Done():
	case <-ctx.Done():
		t.Error("the member that left goes on")
	}
}

func TestBadOptions(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"no port":        func(o *Options) { o.PeerURL = "https://10.0.0.1" },
		"no scheme":      func(o *Options) { o.ClientURL = "10.0.0.1:2379" },
		"not in cluster": func(o *Options) { o.Cluster = map[string]string{"other": o.PeerURL} },
	} {
		o := options(t, "a")
		change(&o)
		if m, err := Start(t.Context(), o); err == nil {
			m.Close()
			t.Errorf("%s: the member started", name)
		}
	}
}

func eventually(t *testing.T, try func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func client(t *testing.T, o Options) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{o.ClientURL}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
