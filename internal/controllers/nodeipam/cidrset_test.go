package nodeipam

import (
	"net/netip"
	"testing"
)

func TestAllocate(t *testing.T) {
	for _, test := range []struct {
		cluster string
		bits    int
		taken   []string
		want    []string
	}{
		{"10.244.0.0/16", 24, nil, []string{"10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"}},
		{"10.244.0.0/16", 24, []string{"10.244.1.0/24"}, []string{"10.244.0.0/24", "10.244.2.0/24"}},
		{"10.0.0.0/8", 16, []string{"10.0.0.0/15"}, []string{"10.2.0.0/16"}},
		{"10.244.0.0/22", 25, []string{"10.244.0.0/23"}, []string{"10.244.2.0/25", "10.244.2.128/25", "10.244.3.0/25"}},
		{"fd00:10:244::/48", 64, []string{"fd00:10:244::/64"}, []string{"fd00:10:244:1::/64", "fd00:10:244:2::/64"}},
		{"10.244.0.0/16", 24, []string{"192.168.0.0/16"}, []string{"10.244.0.0/24"}},
	} {
		s, err := newCIDRSet(netip.MustParsePrefix(test.cluster), test.bits)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range test.taken {
			s.occupy(netip.MustParsePrefix(p))
		}
		for _, want := range test.want {
			if got, ok := s.allocate(); !ok || got.String() != want {
				t.Errorf("%s: got %s (%t), want %s", test.cluster, got, ok, want)
			}
		}
	}
}

func TestFullAndReleased(t *testing.T) {
	s, err := newCIDRSet(netip.MustParsePrefix("10.0.0.0/22"), 24)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if _, ok := s.allocate(); !ok {
			t.Fatal("no range")
		}
	}
	if got, ok := s.allocate(); ok {
		t.Errorf("a fifth range: %s", got)
	}
	free := netip.MustParsePrefix("10.0.2.0/24")
	s.release(free)
	if got, ok := s.allocate(); !ok || got != free {
		t.Errorf("got %s (%t), want %s", got, ok, free)
	}
}

func TestBadSizes(t *testing.T) {
	for cluster, bits := range map[string]int{"10.0.0.0/24": 16, "10.0.0.0/8": 28, "10.0.0.0/30": 33} {
		if _, err := newCIDRSet(netip.MustParsePrefix(cluster), bits); err == nil {
			t.Errorf("%s with /%d was accepted", cluster, bits)
		}
	}
}
