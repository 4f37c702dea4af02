package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// allocations is the record of which attachment has which addresses and host
// ports. It is kept in one file that is replaced as a whole, under a lock.
//
// The file's name has the kernel's boot ID: network namespaces do not outlive a
// boot, so neither may the record. Within a boot the page cache keeps what was
// written even when every process dies, which is why nothing here waits for the
// disk.
type allocations struct {
	path string
	lock *os.File
	// last is the address given out last in each range. Searching begins after
	// it, so that an address rests as long as possible before it is used again.
	Last        map[netip.Prefix]netip.Addr `json:"last"`
	Attachments map[string]*attachment      `json:"attachments"`
}

type attachment struct {
	// NetNS is the path of the pod's network namespace.
	NetNS string        `json:"netns"`
	Addrs []netip.Addr  `json:"addrs"`
	Ports []PortMapping `json:"ports,omitempty"`
}

// attachmentKey names an attachment: CNI identifies it by container and
// interface.
func attachmentKey(containerID, ifName string) string { return containerID + "/" + ifName }

// openAllocations reads the record and locks it until close.
func openAllocations(dir string) (*allocations, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("address record: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("address record: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock address record: %w", err)
	}
	a := &allocations{lock: lock, Last: map[netip.Prefix]netip.Addr{}, Attachments: map[string]*attachment{}}
	if err := a.read(dir); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *allocations) read(dir string) error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("address record: %w", err)
	}
	a.path = filepath.Join(dir, "boot-"+strings.TrimSpace(string(boot))+".json")
	data, err := os.ReadFile(a.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return removeOlder(dir, a.path)
	case err != nil:
		return fmt.Errorf("address record: %w", err)
	}
	if err := json.Unmarshal(data, a); err != nil {
		return fmt.Errorf("address record %s cannot be read (remove it only when no pod runs): %w", a.path, err)
	}
	return nil
}

// removeOlder removes the records of earlier boots.
func removeOlder(dir, keep string) error {
	old, err := filepath.Glob(filepath.Join(dir, "boot-*.json"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if path != keep {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("address record of an earlier boot: %w", err)
			}
		}
	}
	return nil
}

func (a *allocations) close() { a.lock.Close() }

// save replaces the file.
func (a *allocations) save() error {
	data, err := json.Marshal(a)
	if err != nil {
		return err
	}
	tmp := a.path + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("address record: %w", err)
	}
	if err := os.Rename(tmp, a.path); err != nil {
		return fmt.Errorf("address record: %w", err)
	}
	return nil
}

// take gives the attachment an address of each range. A repeated ADD of the
// same attachment gets the same addresses. When a range is full, attachments
// whose namespace is gone give theirs back.
func (a *allocations) take(key, netns string, ranges []Range, exists func(netns string) bool) (*attachment, error) {
	if have := a.Attachments[key]; have != nil {
		return have, nil
	}
	addrs, err := a.free(ranges)
	if err != nil {
		maps.DeleteFunc(a.Attachments, func(_ string, at *attachment) bool { return !exists(at.NetNS) })
		if addrs, err = a.free(ranges); err != nil {
			return nil, err
		}
	}
	at := &attachment{NetNS: netns, Addrs: addrs}
	for i, r := range ranges {
		a.Last[r.Subnet] = addrs[i]
	}
	a.Attachments[key] = at
	return at, nil
}

func (a *allocations) free(ranges []Range) ([]netip.Addr, error) {
	used := map[netip.Addr]bool{}
	for _, at := range a.Attachments {
		for _, addr := range at.Addrs {
			used[addr] = true
		}
	}
	var out []netip.Addr
	for _, r := range ranges {
		addr, ok := next(r, a.Last[r.Subnet], used)
		if !ok {
			return nil, fmt.Errorf("all addresses of the node's pod range %s are in use: remove pods or give nodes larger ranges", r.Subnet)
		}
		out = append(out, addr)
	}
	return out, nil
}

// next returns the first free address of r after last, going around once.
func next(r Range, last netip.Addr, used map[netip.Addr]bool) (netip.Addr, bool) {
	first := r.Subnet.Masked().Addr()
	start := last.Next()
	if !r.Subnet.Contains(start) {
		start = first
	}
	at := start
	for {
		if usable(r, at) && !used[at] {
			return at, true
		}
		if at = at.Next(); !r.Subnet.Contains(at) {
			at = first
		}
		if at == start {
			return netip.Addr{}, false
		}
	}
}

// usable says whether a pod may have the address: not the network's own, the
// gateway's or IPv4's broadcast address.
func usable(r Range, a netip.Addr) bool {
	if a == r.Subnet.Masked().Addr() || a == r.Gateway {
		return false
	}
	return a.Is6() || r.Subnet.Contains(a.Next())
}

// conflict returns an error if another attachment than key has one of the host
// ports.
func (a *allocations) conflict(key string, ports []PortMapping) error {
	for other, at := range a.Attachments {
		if other == key {
			continue
		}
		for _, p := range ports {
			if slices.ContainsFunc(at.Ports, p.collides) {
				return fmt.Errorf("host port %d/%s is in use by another pod", p.HostPort, p.Protocol)
			}
		}
	}
	return nil
}

// prune removes the attachments that keep does not name and returns them.
func (a *allocations) prune(keep []string) map[string]*attachment {
	gone := map[string]*attachment{}
	for key, at := range a.Attachments {
		if !slices.Contains(keep, key) {
			gone[key] = at
			delete(a.Attachments, key)
		}
	}
	return gone
}
