package dns

import (
	"context"
	"math/rand/v2"

	"github.com/coredns/coredns/plugin"
	mdns "github.com/miekg/dns"
)

// shuffle puts the addresses of an answer in random order, because most
// clients take the first.
type shuffle struct {
	next plugin.Handler
}

// Name implements plugin.Handler.
func (s shuffle) Name() string { return "shuffle" }

// ServeDNS implements plugin.Handler.
func (s shuffle) ServeDNS(ctx context.Context, w mdns.ResponseWriter, r *mdns.Msg) (int, error) {
	return plugin.NextOrFailure(s.Name(), s.next, ctx, &shuffleWriter{w}, r)
}

type shuffleWriter struct {
	mdns.ResponseWriter
}

// WriteMsg implements dns.ResponseWriter. Aliases stay before the addresses.
func (w *shuffleWriter) WriteMsg(m *mdns.Msg) error {
	first := 0
	for first < len(m.Answer) && !isAddress(m.Answer[first]) {
		first++
	}
	addrs := m.Answer[first:]
	for _, rr := range addrs {
		if !isAddress(rr) {
			return w.ResponseWriter.WriteMsg(m)
		}
	}
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	return w.ResponseWriter.WriteMsg(m)
}

func isAddress(rr mdns.RR) bool {
	t := rr.Header().Rrtype
	return t == mdns.TypeA || t == mdns.TypeAAAA
}
