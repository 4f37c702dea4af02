//go:build e2e

package devnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestMain makes the test's binary process 1 of the nodes and the command that
// it runs in the place of skiff server.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		var main func() error
		switch os.Args[1] {
		case "node-init":
			main = func() error { return Init(slog.New(slog.NewTextHandler(os.Stderr, nil))) }
		case "placeholder":
			main = placeholder
		}
		if main != nil {
			if err := main(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	os.Exit(m.Run())
}

// placeholder serves what it sees of its node.
func placeholder() error {
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		return err
	}
	if err := notify(os.Getenv("NOTIFY_SOCKET"), readyMessage); err != nil {
		return err
	}
	http.HandleFunc("/self", func(w http.ResponseWriter, r *http.Request) {
		host, _ := os.Hostname()
		file, _ := os.ReadFile("/etc/hostname")
		fmt.Fprintf(w, "%s %s %d", host, strings.TrimSpace(string(file)), os.Getpid())
	})
	http.HandleFunc("/write", func(w http.ResponseWriter, r *http.Request) {
		if err := os.WriteFile("/var/lib/skiff/mine", []byte("x"), 0o600); err != nil {
			fmt.Fprint(w, err)
		}
	})
	http.HandleFunc("/mount", func(w http.ResponseWriter, r *http.Request) {
		times, err := mountedTimes("/var/lib/kubelet/volume")
		fmt.Fprint(w, times, err)
	})
	http.HandleFunc("/die", func(http.ResponseWriter, *http.Request) { os.Exit(7) })
	return http.Serve(l, nil)
}

// mountedTimes mounts something on dir, for a moment, and returns how often it
// is in the node's table of mounts then.
func mountedTimes(dir string) (int, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	if err := unix.Mount("volume", dir, "tmpfs", 0, ""); err != nil {
		return 0, err
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	return strings.Count(string(table), " - tmpfs volume "), errors.Join(err, unix.Unmount(dir, 0))
}

func get(dial func(ctx context.Context, network, address string) (net.Conn, error), url string) (string, error) {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return string(text), err
}

// makeNodes starts a cluster whose nodes run placeholders.
func makeNodes(t *testing.T, name string, isolated bool, n int) *Cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "config"))
	home := t.TempDir()
	cg, err := preflight(home, n)
	if err != nil {
		t.Skip(err)
	}
	m, err := loadMachine(home)
	if err != nil {
		t.Fatal(err)
	}
	subnet, err := freeSubnet(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(home, name, n, subnet, isolated)
	t.Cleanup(func() {
		if t.Failed() {
			for i := range c.Nodes {
				log, _ := os.ReadFile(c.LogFile(&c.Nodes[i]))
				t.Logf("log of %s:\n%s", c.Nodes[i].Name, log)
			}
		}
		if err := c.remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	u := up{Cluster: c, machine: m}
	if err := u.prepareMachine(); err != nil {
		t.Fatal(err)
	}
	for i := range c.Nodes {
		c.startPlaceholder(t, &c.Nodes[i], cg)
	}
	return c
}

func (c *Cluster) startPlaceholder(t *testing.T, n *Node, cg *cgroups) {
	t.Helper()
	if err := os.MkdirAll(c.nodeDir(n), 0o700); err != nil {
		t.Fatal(err)
	}
	news, err := listen(c.notifySocket(n))
	if err != nil {
		t.Fatal(err)
	}
	defer news.close()
	if err := c.startNode(n, cg, os.Args[0], []string{os.Args[0], "placeholder"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := news.awaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}

func (c *Cluster) url(i int, path string) string {
	return "http://" + netip.AddrPortFrom(c.Nodes[i].IP, 8080).String() + path
}

func TestNodesLiveAndGo(t *testing.T) {
	before := linksAndRoutes(t)
	c := makeNodes(t, "e2etest", true, 2)
	one := &c.Nodes[0]

	// The machine reaches the nodes, which have names and a PID 1 of their own.
	for i := range c.Nodes {
		text, err := get(nil, c.url(i, "/self"))
		name := c.Nodes[i].Name
		if err != nil || !strings.HasPrefix(text, name+" "+name+" ") {
			t.Fatalf("node %s says %q, %v", name, text, err)
		}
	}
	// Nodes reach each other, and nothing outside.
	inside := func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialInside(ctx, c.InitPID(one), network, address)
	}
	if text, err := get(inside, c.url(1, "/self")); err != nil || !strings.HasPrefix(text, "e2etest-2 ") {
		t.Fatalf("from node to node: %q, %v", text, err)
	}
	if _, err := inside(t.Context(), "udp", "198.51.100.1:9"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("an isolated node reaches outside: %v", err)
	}
	// The machine itself keeps the cluster's ranges at home.
	if _, err := net.Dial("udp", "10.244.1.1:9"); !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("the machine has a way to a pod's address: %v", err)
	}
	// What a node writes is its own.
	if text, err := get(nil, c.url(0, "/write")); err != nil || text != "" {
		t.Fatalf("%q, %v", text, err)
	}
	if _, err := os.Stat(filepath.Join(c.nodeDir(one), "data/mine")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(c.nodeDir(&c.Nodes[1]), "data/mine")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the other node has it: %v", err)
	}
	if _, err := os.Stat("/var/lib/skiff/mine"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the machine has it: %v", err)
	}

	// What is mounted for a pod is there once.
	if text, err := get(nil, c.url(0, "/mount")); err != nil || text != "1 <nil>" {
		t.Errorf("a volume is mounted %s times, %v", text, err)
	}

	// A command that ends is started again, with the news of its end.
	news, err := listen(c.notifySocket(one))
	if err != nil {
		t.Fatal(err)
	}
	defer news.close()
	get(nil, c.url(0, "/die"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := news.awaitReady(ctx); err == nil || !strings.Contains(err.Error(), "status 7") {
		t.Errorf("the news of the end: %v", err)
	}
	if err := news.awaitReady(ctx); err != nil {
		t.Errorf("the news of the new start: %v", err)
	}
	// So is one that is told to restart.
	if err := c.RestartSkiff(ctx, one); err != nil {
		t.Fatal(err)
	}
	if text, err := get(nil, c.url(0, "/self")); err != nil {
		t.Errorf("after the restart: %q, %v", text, err)
	}

	// A partition cuts the node off, and healing ends it.
	if err := c.Partition(one, true); err != nil {
		t.Fatal(err)
	}
	if state := c.State(one); state != Partitioned {
		t.Errorf("state %s", state)
	}
	if text, err := get(nil, c.url(0, "/self")); err == nil {
		t.Errorf("a node that is cut off answers %q", text)
	}
	if err := c.Partition(one, false); err != nil {
		t.Fatal(err)
	}
	if text, err := get(nil, c.url(0, "/self")); err != nil {
		t.Errorf("after healing: %q, %v", text, err)
	}

	// A stopped node starts again.
	if err := c.StopNode(t.Context(), one, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if state := c.State(one); state != Stopped {
		t.Errorf("state %s", state)
	}
	cg, err := findCgroups()
	if err != nil {
		t.Fatal(err)
	}
	c.startPlaceholder(t, one, cg)
	if text, err := get(nil, c.url(0, "/self")); err != nil {
		t.Errorf("after the start: %q, %v", text, err)
	}

	for range 2 {
		if err := c.remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if after := linksAndRoutes(t); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
	for _, h := range cg.hierarchies {
		if _, err := os.Stat(filepath.Join(h.mountpoint, c.cgroup())); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("cgroup %s%s: %v", h.mountpoint, c.cgroup(), err)
		}
	}
	if entries, err := os.ReadDir(c.dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is there: %v, %v", entries, err)
	}
}

// linksAndRoutes describes the machine's interfaces and IPv4 routes.
func linksAndRoutes(t *testing.T) string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, l := range links {
		fmt.Fprintln(&b, l.Attrs().Name)
	}
	for _, r := range routes {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}

func TestUpSaysWhyTheServerDoesNotStart(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "config"))
	before := linksAndRoutes(t)
	home := t.TempDir()
	failing := filepath.Join(t.TempDir(), "skiff")
	script := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = node-init ] && exec %s \"$@\"\necho this will not do >&2\nexit 3\n", os.Args[0])
	if err := os.WriteFile(failing, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Up(t.Context(), UpOptions{Home: home, Name: "e2efail", Nodes: 1, Isolated: true, Binary: failing, Progress: &Progress{Out: t.Output()}})
	if err == nil || !strings.Contains(err.Error(), "server ready: it ended with status 3") || !strings.Contains(err.Error(), "this will not do") {
		t.Errorf("the error is: %v", err)
	}
	if after := linksAndRoutes(t); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
	if _, err := Load(home, "e2efail"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the cluster is still described: %v", err)
	}
}

func TestNodesWithAWayOut(t *testing.T) {
	was, err := os.ReadFile(forwardingSwitch)
	if err != nil {
		t.Fatal(err)
	}
	c := makeNodes(t, "e2eout", false, 1)
	if now, err := os.ReadFile(forwardingSwitch); err != nil || strings.TrimSpace(string(now)) != "1" {
		t.Errorf("forwarding is %q, %v", now, err)
	}
	// The node has a route for every address: connecting a datagram socket
	// sends nothing.
	conn, err := dialInside(t.Context(), c.InitPID(&c.Nodes[0]), "udp", "198.51.100.1:9")
	if err != nil {
		t.Errorf("the node has no way out: %v", err)
	} else {
		conn.Close()
	}
	tables := func() (n int) {
		conn, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		all, err := conn.ListTables()
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range all {
			if table.Name == c.bridge() {
				n++
			}
		}
		return n
	}
	if got := tables(); got != 1 {
		t.Errorf("%d nftables tables", got)
	}
	if err := c.remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := tables(); got != 0 {
		t.Errorf("%d nftables tables are left", got)
	}
	if now, err := os.ReadFile(forwardingSwitch); err != nil || string(now) != string(was) {
		t.Errorf("forwarding was %q and is %q, %v", was, now, err)
	}
}

// Two homes may have clusters of the same name; the second must not take or
// remove what the first has.
func TestAnothersBridgeIsLeftAlone(t *testing.T) {
	c := makeNodes(t, "e2esame", true, 1)
	_, err := Up(t.Context(), UpOptions{
		Home: t.TempDir(), Name: c.Name, Nodes: 1, Isolated: true, Binary: os.Args[0], Progress: &Progress{Out: t.Output()},
	})
	if err == nil || !strings.Contains(err.Error(), "belongs to another cluster") {
		t.Errorf("the error is: %v", err)
	}
	if text, err := get(nil, c.url(0, "/self")); err != nil {
		t.Errorf("the first cluster answers %q, %v", text, err)
	}
	// The end of a cluster leaves what a running one needs.
	other := makeNodes(t, "e2eother", true, 1)
	if err := other.remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	blackholes := 0
	for _, r := range routes {
		if r.Protocol == routeProtocol {
			blackholes++
		}
	}
	if blackholes != len(clusterRanges) {
		t.Errorf("%d blackhole routes are left, want %d", blackholes, len(clusterRanges))
	}
}
