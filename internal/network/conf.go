package network

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"skiff/internal/network/cni"
)

// confName sorts before the files that other networks leave behind.
const confName = "10-skiff.conflist"

// conf returns the CNI configuration list for pods in the given ranges.
func (m *Manager) conf(own []netip.Prefix, mtu int) ([]byte, error) {
	plugin := cni.Conf{
		Type:         cni.Name,
		Bridge:       m.BridgeName,
		MTU:          mtu,
		DataDir:      filepath.Join(m.DataDir, "addresses"),
		Capabilities: map[string]bool{"portMappings": true},
	}
	for _, p := range own {
		plugin.Ranges = append(plugin.Ranges, cni.Range{Subnet: p, Gateway: gateway(p)})
	}
	return json.MarshalIndent(map[string]any{
		"cniVersion": "1.1.0",
		"name":       "skiff",
		"plugins":    []any{plugin},
	}, "", "  ")
}

// writeConf writes the configuration, atomically and only if it changed: the
// runtime reads it when it appears, and takes the node's network for ready.
func (m *Manager) writeConf(own []netip.Prefix, mtu int) error {
	want, err := m.conf(own, mtu)
	if err != nil {
		return err
	}
	path := filepath.Join(m.CNIConfDir, confName)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
		return nil
	}
	if err := os.MkdirAll(m.CNIConfDir, 0o755); err != nil {
		return fmt.Errorf("CNI configuration: %w", err)
	}
	// A name without the suffix that the runtime looks for.
	tmp := filepath.Join(m.CNIConfDir, "."+confName+".new")
	if err := os.WriteFile(tmp, want, 0o644); err != nil {
		return fmt.Errorf("CNI configuration: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("CNI configuration: %w", err)
	}
	return nil
}
