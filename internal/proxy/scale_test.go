package proxy

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"skiff/internal/network/nettest"
)

// BenchmarkKernel measures one change of one endpoint among many Services, as
// far as the kernel has it, and what it takes to put all in place.
func BenchmarkKernel(b *testing.B) {
	for _, count := range []int{100, 2000} {
		b.Run(fmt.Sprintf("services=%d", count), func(b *testing.B) {
			p := New(Config{NodeName: "here", NodeIPs: []netip.Addr{netip.MustParseAddr("192.168.50.1")}, Log: slog.New(slog.DiscardHandler), NetNS: nettest.New(b).FD()})
			service := func(i int) *corev1.Service {
				return service(fmt.Sprintf("s%d", i), netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String(), func(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[:1] })
			}
			for i := range count {
				s := service(i)
				p.service(s, false)
				p.slice(slice(s, discoveryv1.AddressTypeIPv4, on("there", 0), on("there", 1)), false)
			}
			sync := func() {
				if _, err := p.sync(); err != nil {
					b.Fatal(err)
				}
			}
			sync()
			b.Run("all", func(b *testing.B) {
				for b.Loop() {
					p.installed = false
					sync()
				}
			})
			b.Run("one", func(b *testing.B) {
				s := service(7)
				for i := 0; b.Loop(); i++ {
					p.slice(slice(s, discoveryv1.AddressTypeIPv4, on("there", 0), on("there", 1+i%200)), false)
					sync()
				}
			})
		})
	}
}
