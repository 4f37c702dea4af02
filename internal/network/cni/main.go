// Package cni is the CNI plugin that attaches pods to a node's bridge. One
// plugin does what the reference plugins bridge, host-local, loopback and
// portmap do together, so that attaching a pod takes one process.
//
// Pods see no neighbours: their address is theirs alone (/32 or /128) and all
// packets go to the gateway, so the node's rules for Services and policies
// apply between pods of one node as well, whether the kernel passes bridged
// packets through them or not.
package cni

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// Name is the plugin's type, the name by which the runtime calls the program.
const Name = "skiff-cni"

// Loopback is the other name it answers to: runtimes call this plugin to
// switch on a pod's loopback interface.
const Loopback = "loopback"

// Conf is the plugin's configuration.
type Conf struct {
	Type   string  `json:"type"`
	Bridge string  `json:"bridge"`
	MTU    int     `json:"mtu,omitempty"`
	Ranges []Range `json:"ranges"`
	// DataDir holds the record of addresses in use.
	DataDir      string          `json:"dataDir"`
	Capabilities map[string]bool `json:"capabilities,omitempty"`
}

// Range is a range of pod addresses of one family.
type Range struct {
	Subnet  netip.Prefix `json:"subnet"`
	Gateway netip.Addr   `json:"gateway"`
}

// netConf is all that the runtime hands over.
type netConf struct {
	Conf
	CNIVersion string `json:"cniVersion"`
	// ValidAttachments comes with GC alone.
	ValidAttachments []types.GCAttachment `json:"cni.dev/valid-attachments,omitempty"`
	RuntimeConfig    struct {
		PortMappings []PortMapping `json:"portMappings,omitempty"`
	} `json:"runtimeConfig"`
}

// Main runs the plugin as the CNI specification says: parameters in the
// environment and on standard input, the result or error written to out. It
// returns the process's exit code.
func Main(name string, out io.Writer) int {
	funcs := skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status}
	if name == Loopback {
		funcs = skel.CNIFuncs{Add: loopbackAdd, Del: loopbackDel, Check: loopbackCheck}
	}
	err := skel.PluginMainFuncsWithError(funcs, version.VersionsStartingFrom("0.3.1"), name)
	if err == nil {
		return 0
	}
	_ = json.NewEncoder(out).Encode(err)
	return 1
}

func parse(stdin []byte) (*netConf, error) {
	c := &netConf{}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "cannot read the network configuration", err.Error())
	}
	invalid := func(format string, a ...any) error {
		return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf(format, a...), "")
	}
	switch {
	case c.Bridge == "":
		return nil, invalid("the network configuration names no bridge")
	case c.DataDir == "":
		return nil, invalid("the network configuration names no dataDir")
	case len(c.Ranges) == 0:
		return nil, invalid("the network configuration has no ranges")
	}
	for _, r := range c.Ranges {
		if !r.Subnet.IsValid() || !r.Subnet.Contains(r.Gateway) {
			return nil, invalid("range %s does not contain its gateway %s", r.Subnet, r.Gateway)
		}
	}
	return c, nil
}
