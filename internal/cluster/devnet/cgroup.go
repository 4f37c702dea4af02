package devnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// cgroups are the machine's cgroup hierarchies: one for version 2, several for
// version 1, both kinds on a hybrid machine.
type cgroups struct {
	hierarchies []hierarchy
}

type hierarchy struct {
	mountpoint string
	unified    bool
	// controllers that the hierarchy has.
	controllers []string
}

// requiredControllers are those without which the kubelet cannot keep its
// promises about resources.
var requiredControllers = []string{"cpu", "cpuset", "memory", "pids"}

// findCgroups reads the hierarchies from the mount table. The error names the
// controllers that are missing.
func findCgroups() (*cgroups, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.FSType != "cgroup" && m.FSType != "cgroup2" || m.Root != "/", false
	})
	if err != nil {
		return nil, fmt.Errorf("reading the mount table: %w", err)
	}
	c := &cgroups{}
	var all []string
	for _, m := range mounts {
		h := hierarchy{mountpoint: m.Mountpoint, unified: m.FSType == "cgroup2"}
		if h.unified {
			text, err := os.ReadFile(filepath.Join(m.Mountpoint, "cgroup.controllers"))
			if err != nil {
				return nil, err
			}
			h.controllers = strings.Fields(string(text))
		} else {
			h.controllers = strings.Split(m.VFSOptions, ",")
		}
		all = append(all, h.controllers...)
		c.hierarchies = append(c.hierarchies, h)
	}
	var missing []string
	for _, name := range requiredControllers {
		if !slices.Contains(all, name) {
			missing = append(missing, name)
		}
	}
	if missing != nil {
		return nil, fmt.Errorf("the cgroup controllers %v are missing; mount them (cgroup version 2 on /sys/fs/cgroup) or enable them on the kernel's command line (cgroup_enable=memory)", missing)
	}
	return c, nil
}

// make creates the cgroup in every hierarchy, with its parents' controllers and
// resources handed down to it.
func (c *cgroups) make(path string) error {
	for _, h := range c.hierarchies {
		dir := h.mountpoint
		for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
			if err := h.handDown(dir); err != nil {
				return fmt.Errorf("preparing cgroup %s: %w", dir, err)
			}
			dir = filepath.Join(dir, name)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("making a cgroup: %w", err)
			}
			if err := h.inherit(dir); err != nil {
				return fmt.Errorf("preparing cgroup %s: %w", dir, err)
			}
		}
	}
	return nil
}

// handDown lets the children of dir use the hierarchy's controllers.
func (h *hierarchy) handDown(dir string) error {
	if !h.unified || len(h.controllers) == 0 {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+strings.Join(h.controllers, " +")), 0)
}

// inherit gives a version 1 cpuset its parent's processors and memory nodes,
// without which no process can enter it.
func (h *hierarchy) inherit(dir string) error {
	if h.unified || !slices.Contains(h.controllers, "cpuset") {
		return nil
	}
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(own)) != "" {
			continue
		}
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), parent, 0); err != nil {
			return err
		}
	}
	return nil
}

// enter moves a process into the cgroup in every hierarchy.
func (c *cgroups) enter(path string, pid int) error {
	for _, h := range c.hierarchies {
		procs := filepath.Join(h.mountpoint, path, "cgroup.procs")
		if err := os.WriteFile(procs, []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("moving process %d into cgroup %s: %w", pid, procs, err)
		}
	}
	return nil
}

// remove removes the cgroup and those below it, in which no process may be left.
func (c *cgroups) remove(path string) error {
	var failed []error
	for _, h := range c.hierarchies {
		failed = append(failed, removeTree(filepath.Join(h.mountpoint, path)))
	}
	return errors.Join(failed...)
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing cgroup %s: %w", dir, err)
	}
	return nil
}

// removeEmpty removes a cgroup unless others are left in it, and reports
// whether it is gone from every hierarchy.
func (c *cgroups) removeEmpty(path string) (gone bool) {
	gone = true
	for _, h := range c.hierarchies {
		if err := unix.Rmdir(filepath.Join(h.mountpoint, path)); err != nil && !errors.Is(err, unix.ENOENT) {
			gone = false
		}
	}
	return gone
}
