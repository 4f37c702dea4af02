package member_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"skiff/internal/store"
	"skiff/internal/store/enginetest"
	"skiff/internal/store/etcd"
	"skiff/internal/store/etcd/member"
	"skiff/internal/store/etcd/member/membertest"
	"skiff/internal/store/pebble"
)

// TestEngine runs the suite over one member, each test below a prefix of its
// own: by network and in process.
func TestEngine(t *testing.T) {
	o := membertest.Options(t, "a")
	m := membertest.Start(t, o)
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
	m := membertest.Start(t, membertest.Options(t, "a"))
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
	a := membertest.Options(t, "a")
	members := []*member.Member{membertest.Start(t, a)}
	var endpoints []string
	all := []member.Options{a}
	for _, name := range []string{"b", "c"} {
		o := membertest.Options(t, name)
		o.Joining = true
		var err error
		// etcd takes a new member only once the last one is in.
		eventually(t, func() error {
			o.Cluster, err = member.Join(t.Context(), client(t, a), name, o.PeerURL)
			return err
		})
		if again, err := member.Join(t.Context(), client(t, a), name, o.PeerURL); err != nil || len(again) != len(o.Cluster) {
			t.Errorf("a second Join before the start: %v, %v, want %v", again, err, o.Cluster)
		}
		members = append(members, membertest.Start(t, o))
		all = append(all, o)
	}
	if _, err := member.Join(t.Context(), client(t, a), "c", membertest.LocalURL(t)); err == nil {
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
	back := membertest.Start(t, a)
	c := back.Client()
	defer c.Close()
	if r, err := c.Get(ctx, "/b"); err != nil || len(r.Kvs) != 1 {
		t.Errorf("the member that came back has %v, %v", r, err)
	}
	// etcd trusts the member that came back after five seconds.
	eventually(t, func() error { return member.Leave(ctx, c, "c") })
	select {
	case <-members[2].Done():
	case <-ctx.Done():
		t.Error("the member that left goes on")
	}
}

func TestBadOptions(t *testing.T) {
	for name, change := range map[string]func(*member.Options){
		"no port":        func(o *member.Options) { o.PeerURL = "https://10.0.0.1" },
		"no scheme":      func(o *member.Options) { o.ClientURL = "10.0.0.1:2379" },
		"not in cluster": func(o *member.Options) { o.Cluster = map[string]string{"other": o.PeerURL} },
	} {
		o := membertest.Options(t, "a")
		change(&o)
		if m, err := member.Start(t.Context(), o); err == nil {
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

func client(t *testing.T, o member.Options) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{o.ClientURL}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
