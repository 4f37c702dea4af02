package containerd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

func TestDefaults(t *testing.T) {
	runc := filepath.Join(t.TempDir(), "runc")
	if err := os.WriteFile(runc, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Dir(runc))
	c, err := Config{DataDir: "/var/lib/skiff"}.Defaults()
	if err != nil || c.Socket() != "/run/skiff/containerd.sock" || c.Runc != runc || c.CNIConfDir != "/etc/cni/net.d" {
		t.Errorf("got %+v, %v", c, err)
	}
	a, err := Config{DataDir: "/tmp/a"}.Defaults()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Config{DataDir: "/tmp/b"}.Defaults()
	if err != nil {
		t.Fatal(err)
	}
	// containerd keeps shims' sockets below it, whose directory may have 42
	// bytes.
	if a.StateDir == b.StateDir || len(a.StateDir+"/s") > 42 {
		t.Errorf("state directories %s and %s", a.StateDir, b.StateDir)
	}
	if _, err := (Config{}).Defaults(); err == nil {
		t.Error("no data directory is accepted")
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := (Config{DataDir: "/x"}).Defaults(); err == nil || !strings.Contains(err.Error(), "apt-get install runc") {
		t.Errorf("without runc: %v", err)
	}
}

func TestConfigurationSaysWhatIsSet(t *testing.T) {
	c := Config{DataDir: "/data", StateDir: "/state", CNIConfDir: "/conf", CNIBinDirs: []string{"/more"}, Runc: "/bin/runc"}
	text, err := c.toml()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Version int
		Root    string
		Plugins map[string]map[string]any
	}
	if err := toml.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	cri := got.Plugins["io.containerd.cri.v1.runtime"]
	if period := cri["stats_collect_period"]; period != statsPeriod {
		t.Errorf("shims are woken every %v", period)
	}
	cni, _ := cri["cni"].(map[string]any)
	dirs, _ := cni["bin_dirs"].([]any)
	if got.Version != 4 || got.Root != "/data/containerd" || cni["conf_dir"] != "/conf" || len(dirs) != 2 || dirs[0] != "/data/bin" || dirs[1] != "/more" {
		t.Errorf("the configuration is\n%s", text)
	}
	for _, want := range []string{"/bin/runc", "/data/bin/containerd-shim-runc-v2", "/state/containerd.sock.ttrpc", PauseImage, "config_path = '/etc/containerd/certs.d'"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the configuration does not name %s:\n%s", want, text)
		}
	}
	again, err := c.toml()
	if err != nil || string(again) != string(text) {
		t.Errorf("a second rendering differs (%v), by which a running child would be replaced", err)
	}
}

func TestLinksPointToTheBinary(t *testing.T) {
	c := Config{DataDir: t.TempDir(), Binary: "/old/skiff", Links: []string{"plugin"}}
	for _, binary := range []string{"/old/skiff", "/old/skiff", "/new/skiff"} {
		c.Binary = binary
		if err := c.Link(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{shimName, "plugin"} {
			if got, err := os.Readlink(filepath.Join(c.BinDir(), name)); err != nil || got != binary {
				t.Errorf("%s is a link to %q, %v; want %s", name, got, err, binary)
			}
		}
	}
}

func TestWatchTellsOfTheEnd(t *testing.T) {
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "exec sleep 1000"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := watch(p.Pid)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.done:
		t.Fatal("a running process is said to have ended")
	default:
	}
	c.kill()
	<-c.done
	if _, err := p.Wait(); err != nil {
		t.Error(err)
	}
	if err := c.stop(t.Context()); err != nil {
		t.Errorf("stopping what has ended: %v", err)
	}
	if _, err := watch(p.Pid); err == nil {
		t.Error("a process that is gone is watched")
	}
}
