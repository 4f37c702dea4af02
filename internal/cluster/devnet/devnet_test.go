package devnet

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func TestNewClusterNumbersNodes(t *testing.T) {
	c := newCluster(t.TempDir(), "dev", 3, netip.MustParsePrefix("172.30.7.0/24"), true)
	for i, want := range []Node{
		{Name: "dev-1", IP: netip.MustParseAddr("172.30.7.2")},
		{Name: "dev-2", IP: netip.MustParseAddr("172.30.7.3")},
		{Name: "dev-3", IP: netip.MustParseAddr("172.30.7.4")},
	} {
		if c.Nodes[i] != want {
			t.Errorf("node %d is %+v, want %+v", i, c.Nodes[i], want)
		}
	}
	if got := c.gateway().String(); got != "172.30.7.1" {
		t.Errorf("the gateway is %s", got)
	}
	c.grow(2)
	if len(c.Nodes) != 3 {
		t.Errorf("growing to 2 leaves %d nodes", len(c.Nodes))
	}
}

func TestClusterIsLoadedAsSaved(t *testing.T) {
	home := t.TempDir()
	want := newCluster(home, "dev", 2, netip.MustParsePrefix("172.30.0.0/24"), true)
	if err := want.save(); err != nil {
		t.Fatal(err)
	}
	got, err := Load(home, "dev")
	if err != nil || got.Subnet != want.Subnet || !got.Isolated || len(got.Nodes) != 2 || got.Nodes[1] != want.Nodes[1] {
		t.Fatalf("loaded %+v, %v", got, err)
	}
	if _, err := Load(home, "other"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a cluster that is not there: %v", err)
	}
	for _, bad := range []string{"", "..", "a/b", "Dev", "-dev", strings.Repeat("x", 33)} {
		if _, err := Load(home, bad); err == nil || errors.Is(err, os.ErrNotExist) {
			t.Errorf("name %q: %v", bad, err)
		}
	}
}

func TestLinkName(t *testing.T) {
	if got := linkName("skiff-", "dev"); got != "skiff-dev" {
		t.Errorf("got %q", got)
	}
	a, b := linkName("skiff-", "a-long-cluster-name"), linkName("skiff-", "a-long-cluster-nam2")
	if len(a) != 15 || a == b || !strings.HasPrefix(a, "skiff-") {
		t.Errorf("got %q and %q", a, b)
	}
}

func TestCheckSubnet(t *testing.T) {
	for text, ok := range map[string]bool{
		"172.30.0.0/24":  true,
		"172.30.0.0/29":  true,
		"172.30.0.0/30":  false,
		"172.30.0.0/31":  false,
		"10.244.3.0/24":  false,
		"10.0.0.0/8":     false,
		"fd00::/64":      false,
		"192.168.9.0/24": true,
	} {
		if err := checkSubnet(netip.MustParsePrefix(text), 3); (err == nil) != ok {
			t.Errorf("%s for 3 nodes: %v", text, err)
		}
	}
}

func TestLockKeepsOthersOut(t *testing.T) {
	home := t.TempDir()
	unlock, err := lock(home)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(home); err == nil || !strings.Contains(err.Error(), "another skiff") {
		t.Errorf("a second lock: %v", err)
	}
	unlock()
	if unlock, err = lock(home); err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestProgressTellsStepsAndTimes(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	p := &Progress{Out: &out, Now: func() time.Time { now = now.Add(1500 * time.Millisecond); return now }}
	if err := p.step("first", func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := p.step("second", func() error { return errors.New("no luck") }); err == nil || err.Error() != "second: no luck" {
		t.Errorf("the error is %v", err)
	}
	if got := out.String(); !strings.Contains(got, "first ") || !strings.Contains(got, " 1.50 s\n") || !strings.Contains(got, "second\n") {
		t.Errorf("printed %q", got)
	}
}

func TestKubeconfigContextComesAndGoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", path)
	mine := clientcmdapi.NewConfig()
	mine.Clusters["mine"] = &clientcmdapi.Cluster{Server: "https://mine:6443"}
	mine.AuthInfos["mine"] = &clientcmdapi.AuthInfo{Token: "t"}
	mine.Contexts["mine"] = &clientcmdapi.Context{Cluster: "mine", AuthInfo: "mine"}
	mine.CurrentContext = "mine"
	if err := clientcmd.WriteToFile(*mine, path); err != nil {
		t.Fatal(err)
	}

	c := newCluster(t.TempDir(), "dev", 1, netip.MustParsePrefix("172.30.0.0/24"), true)
	data := filepath.Join(c.nodeDir(&c.Nodes[0]), "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	server := clientcmdapi.NewConfig()
	server.Clusters["skiff"] = &clientcmdapi.Cluster{Server: "https://127.0.0.1:6443", CertificateAuthorityData: []byte("ca")}
	server.AuthInfos["admin"] = &clientcmdapi.AuthInfo{ClientCertificateData: []byte("cert"), ClientKeyData: []byte("key")}
	server.Contexts["admin@skiff"] = &clientcmdapi.Context{Cluster: "skiff", AuthInfo: "admin"}
	server.CurrentContext = "admin@skiff"
	if err := clientcmd.WriteToFile(*server, filepath.Join(data, "admin.kubeconfig")); err != nil {
		t.Fatal(err)
	}

	admin, err := c.adminKubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.addContext(admin); err != nil {
			t.Fatal(err)
		}
	}
	got, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.CurrentContext != "skiff-dev" || got.Clusters["skiff-dev"].Server != "https://172.30.0.2:6443" || got.Contexts["mine"] == nil {
		t.Errorf("after adding: %+v", got)
	}
	for range 2 {
		if err := c.removeContext(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err = clientcmd.LoadFromFile(path); err != nil {
		t.Fatal(err)
	}
	if got.CurrentContext != "" || len(got.Clusters) != 1 || len(got.AuthInfos) != 1 || got.Contexts["mine"] == nil {
		t.Errorf("after removing: %+v", got)
	}
}

func TestInitPIDTellsALaterProcessApart(t *testing.T) {
	c := newCluster(t.TempDir(), "dev", 1, netip.MustParsePrefix("172.30.0.0/24"), true)
	n := &c.Nodes[0]
	if err := os.MkdirAll(c.nodeDir(n), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := c.record(n, os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if got := c.InitPID(n); got != os.Getpid() {
		t.Errorf("InitPID = %d, want %d", got, os.Getpid())
	}
	later := []byte(`{"pid":` + strconv.Itoa(os.Getpid()) + `,"start":"1"}`)
	if err := os.WriteFile(c.processFile(n), later, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := c.InitPID(n); got != 0 {
		t.Errorf("InitPID of a process with another start = %d", got)
	}
}
