package node

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

func facts(t *testing.T) *Facts {
	t.Helper()
	m, err := InspectMachine(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &Facts{Machine: m, Name: "n", IPs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		MaxPods: 110, Port: 10250, Version: "v1.36.0", Runtime: "containerd://2"}
}

func condition(s v1.NodeStatus, t v1.NodeConditionType) v1.NodeCondition {
	for _, c := range s.Conditions {
		if c.Type == t {
			return c
		}
	}
	return v1.NodeCondition{}
}

func TestApply(t *testing.T) {
	f := facts(t)
	start := time.Unix(1000, 0)
	old := v1.NodeStatus{
		Capacity:   v1.ResourceList{"example.com/gpu": resource.MustParse("2")},
		Conditions: []v1.NodeCondition{{Type: "Foreign", Status: v1.ConditionTrue}},
		Addresses:  []v1.NodeAddress{{Type: v1.NodeExternalIP, Address: "203.0.113.1"}, {Type: v1.NodeInternalIP, Address: "192.0.2.9"}},
	}
	s := f.Apply(old, start)
	if c := condition(s, v1.NodeReady); c.Status != v1.ConditionTrue || c.Reason != "KubeletReady" || c.Message != "kubelet is posting ready status" {
		t.Errorf("ready: %+v", c)
	}
	if condition(s, "Foreign").Status != v1.ConditionTrue {
		t.Error("another's condition is gone")
	}
	gpus, cpus, pods := s.Allocatable["example.com/gpu"], s.Allocatable[v1.ResourceCPU], s.Allocatable[v1.ResourcePods]
	if gpus.Value() != 2 || cpus.IsZero() || pods.Value() != 110 {
		t.Errorf("capacity %v, allocatable %v", s.Capacity, s.Allocatable)
	}
	if len(s.Addresses) != 4 || s.Addresses[0].Address != "192.0.2.1" {
		t.Errorf("addresses %v", s.Addresses)
	}
	if i := s.NodeInfo; i.KernelVersion == "" || i.BootID == "" || i.Architecture == "" || i.KubeletVersion != "v1.36.0" {
		t.Errorf("node info %+v", i)
	}

	later := start.Add(time.Minute)
	again := f.Apply(s, later)
	if changed(s, again) {
		t.Error("time alone is a change")
	}
	if c := condition(again, v1.NodeReady); !c.LastTransitionTime.Time.Equal(start) || !c.LastHeartbeatTime.Time.Equal(later) {
		t.Errorf("times %v, %v", c.LastTransitionTime, c.LastHeartbeatTime)
	}
	f.NotReady, f.Pressure.Disk = "network", true
	broken := f.Apply(s, later)
	if c := condition(broken, v1.NodeReady); c.Status != v1.ConditionFalse || c.Reason != "KubeletNotReady" || c.Message != "network" || !c.LastTransitionTime.Time.Equal(later) {
		t.Errorf("not ready: %+v", c)
	}
	if c := condition(broken, v1.NodeDiskPressure); c.Status != v1.ConditionTrue {
		t.Errorf("disk pressure: %+v", c)
	}
	if !changed(s, broken) {
		t.Error("a broken node is no change")
	}
}

// TestPatch shows that addresses of one type are not merged into each other.
func TestPatch(t *testing.T) {
	f := facts(t)
	before := f.Apply(v1.NodeStatus{}, time.Unix(1000, 0))
	f.IPs = f.IPs[:1]
	f.NotReady = "x"
	after := f.Apply(before, time.Unix(2000, 0))
	data, err := patch(before, after)
	if err != nil {
		t.Fatal(err)
	}
	original, err := json.Marshal(v1.Node{Status: before})
	if err != nil {
		t.Fatal(err)
	}
	merged, err := strategicpatch.StrategicMergePatch(original, data, v1.Node{})
	if err != nil {
		t.Fatal(err)
	}
	var got v1.Node
	if err := json.Unmarshal(merged, &got); err != nil {
		t.Fatal(err)
	}
	if !equal(got.Status, after) {
		t.Errorf("patch %s gives\n%+v\nwant\n%+v", data, got.Status, after)
	}
}
