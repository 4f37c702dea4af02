package topology_test

import (
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/topology"
)

// TestCountsAndGroups changes random nodes, and compares sums with counting
// anew. Rows of the same group must always have the same sum, where those told
// nothing about keep the group that they had.
func TestCountsAndGroups(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const rows = 8
	c := topology.NewCounter("zone")
	nodes := make([]*framework.NodeInfo, rows)
	for i := range nodes {
		nodes[i] = &framework.NodeInfo{Row: i}
		c.Set(nodes[i], false, 0)
	}
	counts, values, groups := make([]bool, rows), make([]int64, rows), make([]uint64, rows)
	for step := range 5000 {
		i := r.IntN(rows)
		n := nodes[i]
		n.Node = &corev1.Node{}
		if zone := r.IntN(7); zone > 0 {
			n.Node.ObjectMeta = metav1.ObjectMeta{Labels: map[string]string{"zone": string(rune('0' + zone))}}
		}
		if r.IntN(10) == 0 {
			n.Node = nil
		}
		counts[i], values[i] = r.IntN(4) > 0, int64(r.IntN(3))
		if c.Set(n, counts[i], values[i]) {
			for row := range nodes {
				groups[row] = c.Group(row)
			}
		}
		groups[i] = c.Group(i)

		sums, members := map[string]int64{}, map[string]int{}
		for row, n := range nodes {
			if n.Node == nil || n.Node.Labels == nil || !counts[row] {
				continue
			}
			sums[n.Node.Labels["zone"]] += values[row]
			members[n.Node.Labels["zone"]]++
		}
		least, first := int64(0), true
		for zone := range members {
			if first || sums[zone] < least {
				least, first = sums[zone], false
			}
		}
		if got, domains := c.Least(); domains != len(members) || domains > 0 && got != least {
			t.Fatalf("step %d: least %d of %d domains, want %d of %d", step, got, domains, least, len(members))
		}
		byGroup := map[uint64]int64{}
		for row, n := range nodes {
			got, ok := c.Sum(row)
			want := int64(0)
			if has := n.Node != nil && n.Node.Labels != nil; has != ok {
				t.Fatalf("step %d: row %d in a domain: %v", step, row, ok)
			} else if has {
				want = sums[n.Node.Labels["zone"]]
			} else {
				got = -1
				want = -1
			}
			if got != want {
				t.Fatalf("step %d: row %d has sum %d, want %d", step, row, got, want)
			}
			if other, seen := byGroup[groups[row]]; seen && other != got {
				t.Fatalf("step %d: group %d has sums %d and %d", step, groups[row], other, got)
			}
			byGroup[groups[row]] = got
		}
	}
}
