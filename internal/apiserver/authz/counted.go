package authz

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"skiff/internal/identity"
)

// Decisions counts what authorizers decide, under upstream's name.
type Decisions struct{ total *prometheus.CounterVec }

// NewDecisions makes a counter that nothing was counted in.
func NewDecisions(reg prometheus.Registerer) *Decisions {
	return &Decisions{promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "apiserver_authorization_decisions_total", Help: "Decisions of authorizers.",
	}, []string{"type", "name", "decision"})}
}

// Of returns an authorizer that decides as z does, and counts it.
func (d *Decisions) Of(kind, name string, z Authorizer) Authorizer {
	return &counted{z, d.total.WithLabelValues(kind, name, "allowed"), d.total.WithLabelValues(kind, name, "denied")}
}

type counted struct {
	Authorizer
	allowed, denied prometheus.Counter
}

// Authorize implements Authorizer.
func (c *counted) Authorize(ctx context.Context, a *Attributes) (Decision, string, error) {
	decision, reason, err := c.Authorizer.Authorize(ctx, a)
	switch decision {
	case Allow:
		c.allowed.Inc()
	case Deny:
		c.denied.Inc()
	case NoOpinion:
	}
	return decision, reason, err
}

// RulesFor implements RuleResolver: those of what is counted, if it knows.
func (c *counted) RulesFor(ctx context.Context, user *identity.User, namespace string) (Rules, error) {
	return Union{c.Authorizer}.RulesFor(ctx, user, namespace)
}
