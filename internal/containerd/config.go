// Package containerd runs the node's container runtime: containerd, linked into
// this binary, as a supervised child process. This package knows how containerd
// is configured, started and kept alive; the runtime itself is linked only by
// the daemon package below, so that importing this one stays cheap.
//
// The child outlives its supervisor on purpose: containers, their shims and
// containerd go on while skiff restarts, and the next supervisor takes the
// running child up again.
package containerd

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"
)

// PauseImage is the image of every pod sandbox. It is made and imported by
// package images; no registry knows it.
const PauseImage = "skiff.local/pause:1"

// Config says where one containerd lives and how it runs. DataDir is required;
// everything else has a default.
type Config struct {
	// DataDir is skiff's data directory. Images and snapshots are kept in
	// <DataDir>/containerd, what is started for each pod in <DataDir>/bin.
	DataDir string
	// StateDir holds sockets and other things that end with the boot (default
	// /run/skiff, or /run/skiff-<hash> for a DataDir other than
	// /var/lib/skiff). It must be short: a socket's path has 107 bytes.
	StateDir string
	// CNIConfDir is where the network's configuration is found (default
	// /etc/cni/net.d).
	CNIConfDir string
	// CNIBinDirs are searched for network plug-ins after <DataDir>/bin.
	CNIBinDirs []string
	// Binary is the skiff program that the child runs (default: the running
	// one).
	Binary string
	// Links are the names, besides the shim's, under which the runtime starts
	// the pods' program: those of the CNI plug-ins it contains.
	Links []string
	// Runc is the OCI runtime's path (default: runc from PATH).
	Runc string
	// Log gets what the supervisor has to say. The child writes to
	// <DataDir>/containerd.log.
	Log *slog.Logger
	// Ready, when set, is called each time the runtime has become able to
	// serve CRI calls: at first start, and again after a crash.
	Ready func()
}

// statsPeriod is how often containerd measures what each container uses of the
// processors, to tell how much that is at the moment: it wakes every shim for it.
const statsPeriod = "15s"

// registriesDir is where containerd's own installations, too, are told of
// mirrors of registries and their certificates: <host>/hosts.toml each
// (containerd's docs/hosts.md).
const registriesDir = "/etc/containerd/certs.d"

// shimName is the name under which the pods' program is a shim; its form is
// containerd's rule (containerd-shim-<name>-<version>).
const shimName = "containerd-shim-runc-v2"

// Defaults returns c with its defaults filled in, or an error that says what
// is missing on this machine.
func (c Config) Defaults() (Config, error) {
	if c.DataDir == "" {
		return c, errors.New("container runtime: no data directory given")
	}
	if c.StateDir == "" {
		c.StateDir = "/run/skiff"
		if c.DataDir != "/var/lib/skiff" {
			c.StateDir = fmt.Sprintf("/run/skiff-%x", sha256.Sum256([]byte(c.DataDir)))[:len("/run/skiff-")+8]
		}
	}
	if c.CNIConfDir == "" {
		c.CNIConfDir = "/etc/cni/net.d"
	}
	if c.CNIBinDirs == nil {
		c.CNIBinDirs = []string{"/opt/cni/bin"}
	}
	if c.Binary == "" {
		self, err := os.Executable()
		if err != nil {
			return c, fmt.Errorf("container runtime: finding this program's file: %w", err)
		}
		c.Binary = self
	}
	if c.Runc == "" {
		path, err := exec.LookPath("runc")
		if err != nil {
			return c, errors.New("container runtime: no runc in PATH; install it (Debian: apt-get install runc)")
		}
		c.Runc = path
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// RootDir is where images, snapshots and metadata are kept.
func (c *Config) RootDir() string { return filepath.Join(c.DataDir, "containerd") }

// BinDir holds the pods' program and the links to it.
func (c *Config) BinDir() string { return filepath.Join(c.DataDir, "bin") }

// Socket is the path of containerd's socket, which also serves CRI.
func (c *Config) Socket() string { return filepath.Join(c.StateDir, "containerd.sock") }

// Endpoint is the socket as CRI clients name it.
func (c *Config) Endpoint() string { return "unix://" + c.Socket() }

func (c *Config) configFile() string { return filepath.Join(c.DataDir, "containerd.toml") }
func (c *Config) logFile() string    { return filepath.Join(c.DataDir, "containerd.log") }
func (c *Config) pidFile() string    { return filepath.Join(c.StateDir, "containerd.pid") }

// toml renders containerd's configuration file.
func (c *Config) toml() ([]byte, error) {
	type table = map[string]any
	oomScore := 0
	if mayLowerOOMScore() {
		oomScore = -999
	}
	return toml.Marshal(table{
		"version":   4,
		"root":      c.RootDir(),
		"state":     filepath.Join(c.StateDir, "containerd"),
		"oom_score": oomScore,
		"required_plugins": []string{
			"io.containerd.grpc.v1.cri",
			"io.containerd.snapshotter.v1.overlayfs",
		},
		"debug": table{"level": "warn"},
		"plugins": table{
			"io.containerd.server.v1.grpc":  table{"address": c.Socket()},
			"io.containerd.server.v1.ttrpc": table{"address": c.Socket() + ".ttrpc"},
			"io.containerd.shim.v1.manager": table{"socket_dir": filepath.Join(c.StateDir, "s")},
			"io.containerd.cri.v1.images": table{
				"snapshotter":   "overlayfs",
				"pinned_images": table{"sandbox": PauseImage},
				// Without it containerd takes a list of two directories for
				// one, which it does not find.
				"registry": table{"config_path": registriesDir},
			},
			"io.containerd.cri.v1.runtime": table{
				"enable_unprivileged_ports":    true,
				"enable_unprivileged_icmp":     true,
				"netns_mounts_under_state_dir": true,
				"restrict_oom_score_adj":       oomScore == 0,
				"disable_apparmor":             !apparmorEnabled(),
				"stats_collect_period":         statsPeriod,
				"cni": table{
					"bin_dirs":              append([]string{c.BinDir()}, c.CNIBinDirs...),
					"conf_dir":              c.CNIConfDir,
					"use_internal_loopback": true,
				},
				"containerd": table{
					"default_runtime_name": "runc",
					"runtimes": table{"runc": table{
						"runtime_type": "io.containerd.runc.v2",
						"runtime_path": filepath.Join(c.BinDir(), shimName),
						"options": table{
							"BinaryName":    c.Runc,
							"Root":          filepath.Join(c.StateDir, "runc"),
							"SystemdCgroup": false,
						},
					}},
				},
			},
		},
	})
}

// mayLowerOOMScore reports whether this process may protect others from the
// kernel's out-of-memory killer, which not every machine's root may.
func mayLowerOOMScore() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return err == nil && data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// apparmorEnabled reports whether the kernel enforces AppArmor and its parser,
// which loading a profile needs, is there.
func apparmorEnabled() bool {
	on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || len(on) == 0 || on[0] != 'Y' {
		return false
	}
	_, err = exec.LookPath("apparmor_parser")
	return err == nil
}

// Link makes the links in BinDir under which the runtime starts the pods'
// program, and lays that there if this binary contains it.
func (c *Config) Link() error {
	if err := os.MkdirAll(c.BinDir(), 0o755); err != nil {
		return fmt.Errorf("making the directory of the runtime's programs: %w", err)
	}
	program := c.Binary
	if podProgram != "" {
		var err error
		if program, err = layPodProgram(c.BinDir(), podProgram); err != nil {
			return err
		}
	}
	for _, name := range append([]string{shimName}, c.Links...) {
		if err := replaceLink(program, filepath.Join(c.BinDir(), name)); err != nil {
			return fmt.Errorf("linking %s: %w", name, err)
		}
	}
	return nil
}

// replaceLink makes path a symbolic link to target, without a moment in which
// there is none.
func replaceLink(target, path string) error {
	if old, err := os.Readlink(path); err == nil && old == target {
		return nil
	}
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, next); err != nil {
		return err
	}
	return os.Rename(next, path)
}
