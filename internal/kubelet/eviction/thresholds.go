package eviction

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is something that a node can run out of.
type Signal string

// The signals, by upstream's names.
const (
	MemoryAvailable   Signal = "memory.available"
	NodeFsAvailable   Signal = "nodefs.available"
	NodeFsInodesFree  Signal = "nodefs.inodesFree"
	ImageFsAvailable  Signal = "imagefs.available"
	ImageFsInodesFree Signal = "imagefs.inodesFree"
	PIDAvailable      Signal = "pid.available"
)

// Resources that are no resources of the API.
const (
	inodes v1.ResourceName = "inodes"
	pids   v1.ResourceName = "pids"
)

// order is that in which scarcities are dealt with: memory first, since the
// kernel kills what it likes once it is used up.
var order = []Signal{MemoryAvailable, NodeFsAvailable, NodeFsInodesFree, ImageFsAvailable, ImageFsInodesFree, PIDAvailable}

// resource returns what the signal is about.
func (s Signal) resource() v1.ResourceName {
	switch s {
	case MemoryAvailable:
		return v1.ResourceMemory
	case NodeFsInodesFree, ImageFsInodesFree:
		return inodes
	case PIDAvailable:
		return pids
	}
	return v1.ResourceEphemeralStorage
}

// condition returns the node's condition that tells of the scarcity.
func (s Signal) condition() v1.NodeConditionType {
	switch s {
	case MemoryAvailable:
		return v1.NodeMemoryPressure
	case PIDAvailable:
		return v1.NodePIDPressure
	}
	return v1.NodeDiskPressure
}

// quantity writes an amount of the signal's resource as upstream does.
func (s Signal) quantity(amount int64) *resource.Quantity {
	switch s.resource() {
	case inodes, pids:
		return resource.NewQuantity(amount, resource.DecimalSI)
	}
	return resource.NewQuantity(amount, resource.BinarySI)
}

// Threshold is how much of something must stay available: an amount, or a part
// of the whole in percent.
type Threshold struct {
	Signal  Signal
	Amount  int64
	Percent float64
}

// least returns the amount that must stay available of capacity.
func (t Threshold) least(capacity int64) int64 {
	if t.Percent > 0 {
		return int64(float64(capacity) * t.Percent / 100)
	}
	return t.Amount
}

// DefaultThresholds are upstream's, in the form that ParseThresholds reads.
const DefaultThresholds = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%"

// ParseThresholds reads a list such as DefaultThresholds; an empty one has no
// thresholds. Like upstream's flag, it leaves out those of 0% and 100%.
func ParseThresholds(text string) ([]Threshold, error) {
	var out []Threshold
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		name, value, ok := strings.Cut(item, "<")
		t := Threshold{Signal: Signal(name)}
		if !ok || !slices.Contains(order, t.Signal) {
			return nil, fmt.Errorf("eviction threshold %q: write signal<value with one of the signals %v", item, order)
		}
		if slices.ContainsFunc(out, func(o Threshold) bool { return o.Signal == t.Signal }) {
			return nil, fmt.Errorf("eviction threshold %q: %s has a threshold already", item, t.Signal)
		}
		if err := t.parse(value); err != nil {
			return nil, fmt.Errorf("eviction threshold %q: %w", item, err)
		}
		if t.Percent < 100 && (t.Percent > 0 || t.Amount > 0) {
			out = append(out, t)
		}
	}
	return out, nil
}

func (t *Threshold) parse(value string) error {
	if number, ok := strings.CutSuffix(value, "%"); ok {
		percent, err := strconv.ParseFloat(number, 64)
		// A comparison with what is no number is false.
		if err != nil || !(percent >= 0 && percent <= 100) {
			return errors.New("a percentage is from 0% to 100%")
		}
		t.Percent = percent
		return nil
	}
	amount, err := resource.ParseQuantity(value)
	if err != nil {
		return err
	}
	if amount.Sign() <= 0 {
		return errors.New("an amount must be positive")
	}
	t.Amount = amount.Value()
	return nil
}
