package devnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"skiff/internal/containerd"
)

// preflight reports everything that keeps a cluster of n nodes from running on
// this machine, each with its remedy.
func preflight(home string, n int) (*cgroups, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("development clusters need root privileges: their nodes are namespaces; run skiff as root (for example with sudo)")
	}
	cg, err := findCgroups()
	missing := []error{
		err,
		containerd.Check(containerd.Config{DataDir: home}),
		checkNftables(),
	}
	if n > 1 {
		missing = append(missing, checkVXLAN())
	}
	return cg, errors.Join(missing...)
}

func checkNftables() error {
	conn, err := nftables.New()
	if err == nil {
		_, err = conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	}
	if err != nil {
		return fmt.Errorf("the kernel has no nftables, by which Services work; load it (modprobe nf_tables) or boot a kernel with CONFIG_NF_TABLES: %w", err)
	}
	return nil
}

// checkVXLAN makes a VXLAN interface, which is never started, and removes it.
func checkVXLAN() error {
	probe := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "skiff-vxlan-chk"}, VxlanId: 4_193_211, Port: 8472}
	if err := netlink.LinkAdd(probe); err != nil {
		return fmt.Errorf("the kernel has no VXLAN, by which pods of different nodes talk; load it (modprobe vxlan) or boot a kernel with CONFIG_VXLAN: %w", err)
	}
	return netlink.LinkDel(probe)
}

// checkSubnet reports what is wrong with a subnet for n nodes.
func checkSubnet(subnet netip.Prefix, n int) error {
	if !subnet.Addr().Is4() || subnet.Bits() > 30 {
		return fmt.Errorf("the subnet %s is none for nodes: it must be an IPv4 network of at most 30 bits, for example 172.30.0.0/24", subnet)
	}
	if room := 1<<(32-subnet.Bits()) - 3; n > room {
		return fmt.Errorf("the subnet %s has room for %d nodes, not for %d", subnet, room, n)
	}
	for _, r := range clusterRanges {
		if r.Overlaps(subnet) {
			return fmt.Errorf("the subnet %s overlaps %s, where pods and Services get their addresses", subnet, r)
		}
	}
	return nil
}
