package devnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lock makes the caller the only one who changes the cluster, until unlock.
func lock(home, name string) (unlock func(), err error) {
	if err := os.MkdirAll(home, 0o711); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(home, name+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another skiff is changing cluster %s now; wait until it is done", name)
		}
		return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}
