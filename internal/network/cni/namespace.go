package cni

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
)

// InNamespace calls f on a thread in the network namespace that fd refers to;
// zero means the caller's own. f must not start goroutines that need the
// namespace.
func InNamespace(fd int, f func() error) error {
	if fd == 0 {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so that nothing
		// else runs in the wrong namespace.
		runtime.LockOSThread()
		if err := netns.Set(netns.NsHandle(fd)); err != nil {
			result <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}
