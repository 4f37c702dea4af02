package devnet

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lock makes the caller the only one who changes the clusters in home, until
// unlock. It is one lock for all, because they share the machine's networks.
func lock(home string) (unlock func(), err error) {
	if err := os.MkdirAll(home, 0o711); err != nil {
		return nil, fmt.Errorf("making the clusters' directory: %w", err)
	}
	f, err := os.Open(home)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another skiff is changing a cluster in %s now; wait until it is done", home)
		}
		return nil, fmt.Errorf("locking %s: %w", home, err)
	}
	return func() { f.Close() }, nil
}
