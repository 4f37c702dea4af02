package containerd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Check reports what keeps containers from running on this machine, naming the
// remedy: no privileges, no runc, no overlay file system where the data lies.
func Check(c Config) error {
	c, err := c.Defaults()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("containers need root privileges; run skiff as root (for example with sudo)")
	}
	return checkOverlay(c.DataDir)
}

// checkOverlay mounts an overlay inside dir, as the snapshotter will.
func checkOverlay(dir string) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	probe, err := os.MkdirTemp(dir, "overlay-check-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(probe)) }()
	sub := make(map[string]string)
	for _, name := range []string{"lower1", "lower2", "upper", "work", "merged"} {
		sub[name] = filepath.Join(probe, name)
		if err := os.Mkdir(sub[name], 0o700); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s:%s,upperdir=%s,workdir=%s", sub["lower2"], sub["lower1"], sub["upper"], sub["work"])
	switch err := unix.Mount("overlay", sub["merged"], "overlay", 0, options); {
	case errors.Is(err, unix.ENODEV):
		return errors.New("the kernel has no overlay file system; load it (modprobe overlay) or boot a kernel with CONFIG_OVERLAY_FS")
	case err != nil:
		return fmt.Errorf("an overlay file system cannot be mounted in %s (%w); use a data directory on a file system such as ext4 or xfs, not on another overlay", dir, err)
	}
	return unix.Unmount(sub["merged"], unix.MNT_DETACH)
}
