package nodeipam_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/nodeipam"
)

// divided is a cluster whose addresses the controller gives to nodes.
type divided struct {
	*controllertest.Cluster
	t       *testing.T
	options nodeipam.Options
}

func divide(t *testing.T, o nodeipam.Options, clusterCIDRs ...string) *divided {
	for _, text := range clusterCIDRs {
		o.ClusterCIDRs = append(o.ClusterCIDRs, netip.MustParsePrefix(text))
	}
	return &divided{controllertest.Start(t), t, o}
}

func (d *divided) run() (stop func()) {
	return d.Run("node-controller", func(deps controller.Deps) (controller.Runnable, error) { return nodeipam.New(deps, d.options) })
}

func (d *divided) add(name string, ranges ...string) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: ranges}}
	if len(ranges) > 0 {
		n.Spec.PodCIDR = ranges[0]
	}
	d.Create(n)
}

func (d *divided) remove(name string) {
	d.Delete(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
}

// ranges waits until a node has its ranges.
func (d *divided) ranges(name string) (ranges []string) {
	d.t.Helper()
	d.Eventually("the ranges of "+name, &corev1.NodeList{}, func() bool {
		n := controllertest.Get(d.Cluster, "", name, &corev1.Node{})
		ranges = n.Spec.PodCIDRs
		return len(ranges) > 0 && n.Spec.PodCIDR == ranges[0]
	})
	return ranges
}

func (d *divided) want(name string, want ...string) {
	d.t.Helper()
	if got := d.ranges(name); !slices.Equal(got, want) {
		d.t.Errorf("%s has %v, want %v", name, got, want)
	}
}

// unavailable counts how often a node was said to get nothing.
func (d *divided) unavailable(name string) (count int32) {
	var list corev1.EventList
	d.List(&list)
	for _, e := range list.Items {
		if e.Reason == "CIDRNotAvailable" && e.InvolvedObject.Name == name {
			count += e.Count
		}
	}
	return count
}

func TestBothFamilies(t *testing.T) {
	d := divide(t, nodeipam.Options{Reserved: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/23")}}, "10.0.0.0/16", "fd00::/56")
	d.run()
	d.add("a")
	d.want("a", "10.0.2.0/24", "fd00::/64")
	d.add("b")
	d.want("b", "10.0.3.0/24", "fd00:0:0:1::/64")
}

func TestSizes(t *testing.T) {
	d := divide(t, nodeipam.Options{MaskSizeIPv4: 26, MaskSizeIPv6: 60}, "fd00::/56", "10.0.0.0/24")
	d.run()
	for i, want := range [][]string{{"fd00::/60", "10.0.0.0/26"}, {"fd00:0:0:10::/60", "10.0.0.64/26"}} {
		name := fmt.Sprint("n", i)
		d.add(name)
		d.want(name, want...)
	}
}

// What nodes have already is theirs, whatever the controller would have given.
func TestOwnRangesAreKept(t *testing.T) {
	d := divide(t, nodeipam.Options{}, "10.0.0.0/21")
	d.add("first", "10.0.0.0/24")
	d.add("large", "10.0.2.0/23")
	d.add("elsewhere", "192.168.7.0/24")
	d.add("new")
	stop := d.run()
	d.want("new", "10.0.1.0/24")
	d.add("newer")
	d.want("newer", "10.0.4.0/24")
	d.want("large", "10.0.2.0/23")
	d.want("elsewhere", "192.168.7.0/24")
	// One that comes with its range while the controller runs has it too.
	d.add("third", "10.0.5.0/24")
	d.add("newest")
	d.want("newest", "10.0.6.0/24")
	// So it is after a restart.
	stop()
	d.run()
	d.add("last")
	d.want("last", "10.0.7.0/24")
}

// Ranges that run out come back when nodes go, and are given to those that
// wait; these are told once.
func TestExhaustion(t *testing.T) {
	d := divide(t, nodeipam.Options{}, "10.0.0.0/16", "fd00::/62")
	d.run()
	for i := range 4 {
		d.add(fmt.Sprint("n", i))
		d.ranges(fmt.Sprint("n", i))
	}
	for _, name := range []string{"late", "later"} {
		d.add(name)
		if message := d.WaitForEvent("", name, "CIDRNotAvailable"); !strings.HasSuffix(message, "status is now: CIDRNotAvailable") {
			t.Errorf("said %q", message)
		}
	}
	// Whatever else happens to the nodes that wait is no news.
	for i := range 5 {
		for _, name := range []string{"late", "later"} {
			controllertest.Change(d.Cluster, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, func(n *corev1.Node) { n.Labels = map[string]string{"a": fmt.Sprint(i)} })
		}
	}
	freed := d.ranges("n2")
	d.remove("n2")
	var happy, waits string
	d.Eventually("the range is given again", &corev1.NodeList{}, func() bool {
		for _, pair := range [][2]string{{"late", "later"}, {"later", "late"}} {
			if n := controllertest.Get(d.Cluster, "", pair[0], &corev1.Node{}); len(n.Spec.PodCIDRs) > 0 {
				happy, waits = pair[0], pair[1]
			}
		}
		return happy != ""
	})
	// The first family has other ranges left, the second only this one.
	if got := d.ranges(happy); got[1] != freed[1] {
		t.Errorf("%s has %v, want what was freed: %v", happy, got, freed)
	}
	d.remove("n0")
	d.ranges(waits)
	if a, b := d.unavailable("late"), d.unavailable("later"); a != 1 || b != 1 {
		t.Errorf("nodes that waited were told so %d and %d times", a, b)
	}
	// One that goes while it waits does not wait any more.
	d.add("gone")
	d.WaitForEvent("", "gone", "CIDRNotAvailable")
	d.remove("gone")
	d.remove("n1")
	d.add("next")
	d.ranges("next")
}

// No two nodes have a range in common while many come and go.
func TestComingAndGoing(t *testing.T) {
	d := divide(t, nodeipam.Options{}, "10.0.0.0/21")
	d.run()
	for i := range 24 {
		d.add(fmt.Sprint("n", i))
		if i >= 8 {
			d.remove(fmt.Sprint("n", i-8))
		}
	}
	d.Eventually("the ranges of the last", &corev1.NodeList{}, func() bool {
		var list corev1.NodeList
		d.List(&list)
		taken := map[string]string{}
		for _, n := range list.Items {
			if other := taken[n.Spec.PodCIDR]; other != "" && n.Spec.PodCIDR != "" {
				t.Fatalf("%s and %s have the range %s", n.Name, other, n.Spec.PodCIDR)
			}
			taken[n.Spec.PodCIDR] = n.Name
		}
		return len(list.Items) == 8 && taken[""] == ""
	})
}
