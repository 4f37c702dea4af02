package serviceaccount

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"skiff/internal/serviceaccount"
)

// metrics count the uses of tokens, under upstream's names. Tokens of Secrets
// are the legacy ones; none are made unasked here.
type metrics struct{ valid, stale, legacy, manual prometheus.Counter }

func newMetrics(reg prometheus.Registerer) *metrics {
	auto := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return auto.NewCounter(prometheus.CounterOpts{Name: "serviceaccount_" + name, Help: help})
	}
	counter("legacy_auto_token_uses_total", "Uses of tokens of Secrets that were made unasked.")
	counter("invalid_legacy_auto_token_uses_total", "Uses of such tokens that are not valid any more.")
	return &metrics{
		valid:  counter("valid_tokens_total", "Uses of tokens that are bound to what uses them."),
		stale:  counter("stale_tokens_total", "Uses of tokens that should have been replaced by now."),
		legacy: counter("legacy_tokens_total", "Uses of tokens of Secrets."),
		manual: counter("legacy_manual_token_uses_total", "Uses of tokens of Secrets that somebody made."),
	}
}

func (m *metrics) used(b *serviceaccount.Binding, now time.Time) {
	switch {
	case b.Secret != nil:
		m.legacy.Inc()
		m.manual.Inc()
	case b.WarnAfter != nil && now.After(b.WarnAfter.Time()):
		m.stale.Inc()
	default:
		m.valid.Inc()
	}
}
