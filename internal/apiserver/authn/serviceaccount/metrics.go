package serviceaccount

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics counts uses of tokens, by upstream's names.
type metrics struct {
	legacyUses, generatedUses, manualUses, invalidUses, staleUses, validUses prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	auto := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return auto.NewCounter(prometheus.CounterOpts{Name: "serviceaccount_" + name + "_total", Help: help})
	}
	return &metrics{
		legacyUses:    counter("legacy_tokens", "Uses of tokens of Secrets."),
		generatedUses: counter("legacy_auto_token_uses", "Uses of tokens of Secrets that were made without being asked for."),
		manualUses:    counter("legacy_manual_token_uses", "Uses of tokens of Secrets that somebody made."),
		invalidUses:   counter("invalid_legacy_auto_token_uses", "Uses of tokens of Secrets that are marked invalid."),
		staleUses:     counter("stale_tokens", "Uses of tokens that should have been replaced by newer ones."),
		validUses:     counter("valid_tokens", "Uses of tokens that are not due to be replaced."),
	}
}
