// Package membertest runs members of etcd clusters in tests.
package membertest

import (
	"context"
	"net"
	"testing"
	"time"

	"skiff/internal/store/etcd/member"
)

// patience is how long Start waits.
const patience = time.Minute

// LocalURL returns a URL on this machine whose port is free.
func LocalURL(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// Options are those of the first member of a cluster of the test's own.
func Options(t testing.TB, name string) member.Options {
	t.Helper()
	o := member.Options{Name: name, Dir: t.TempDir(), PeerURL: LocalURL(t), ClientURL: LocalURL(t), Token: t.Name()}
	o.Cluster = map[string]string{name: o.PeerURL}
	return o
}

// Start runs a member until the test ends.
func Start(t testing.TB, o member.Options) *member.Member {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := member.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}
