package devnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const forwardingSwitch = "/proc/sys/net/ipv4/ip_forward"

// machine is what clusters have changed on the machine itself, to be undone
// when the last of them ends. It is kept in <home>/machine.json.
type machine struct {
	path string
	// MadeDirs are the directories that nodes mount their own over, in the
	// order in which they were made.
	MadeDirs []string `json:"madeDirs,omitempty"`
	// Forwarding tells that packet forwarding was off.
	Forwarding bool `json:"forwarding,omitempty"`
}

func loadMachine(home string) (*machine, error) {
	m := &machine{path: filepath.Join(home, "machine.json")}
	text, err := os.ReadFile(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	} else if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("reading %s: %w", m.path, err)
	}
	return m, nil
}

func (m *machine) save() error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(m.path, text, 0o600)
}

// makeDir makes a directory with its parents. What is made is recorded first.
func (m *machine) makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := m.makeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	m.MadeDirs = append(m.MadeDirs, dir)
	if err := m.save(); err != nil {
		return err
	}
	return os.Mkdir(dir, 0o755)
}

// forward switches packet forwarding on.
func (m *machine) forward() error {
	now, err := os.ReadFile(forwardingSwitch)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(now)) != "0" {
		return nil
	}
	m.Forwarding = true
	if err := m.save(); err != nil {
		return err
	}
	if err := os.WriteFile(forwardingSwitch, []byte("1"), 0); err != nil {
		return fmt.Errorf("allowing the nodes a way out (net.ipv4.ip_forward=1): %w; or use --isolated", err)
	}
	return nil
}

// undo takes everything back. Directories that are in use by now stay.
func (m *machine) undo() error {
	for _, dir := range slices.Backward(m.MadeDirs) {
		os.Remove(dir)
	}
	if m.Forwarding {
		if err := os.WriteFile(forwardingSwitch, []byte("0"), 0); err != nil {
			return fmt.Errorf("switching packet forwarding off again: %w", err)
		}
	}
	if err := os.Remove(m.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
