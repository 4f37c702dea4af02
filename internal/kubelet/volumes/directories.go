package volumes

import (
	"fmt"
	"os"
	"path/filepath"
)

// Directories are volumes that the cluster keeps on this node: each is a
// directory below Root.
type Directories struct{ Root string }

// Make makes a directory that any user of a container may write to, unless
// there is one, and returns its path.
func (d Directories) Make(name string) (string, error) {
	path, err := d.path(name)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(path, 0o777); err != nil {
		return "", fmt.Errorf("making the directory of volume %s: %w", name, err)
	}
	// Whom it belongs to is the pod's affair; the process's umask must not be.
	return path, os.Chmod(path, 0o777)
}

// Remove removes a directory with all that is in it.
func (d Directories) Remove(name string) error {
	path, err := d.path(name)
	if err != nil {
		return err
	}
	if err := unmountBelow(path); err != nil {
		return err
	}
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("removing the directory of volume %s: %w", name, err)
	}
	return nil
}

func (d Directories) path(name string) (string, error) {
	if name == "" || name == "." || name == ".." || filepath.Base(name) != name {
		return "", fmt.Errorf("volume name %q: it must be the name of a directory, without a path", name)
	}
	return filepath.Join(d.Root, name), nil
}
