// Package eventratelimit bounds how many Events are written (EventRateLimit):
// in all, for each namespace, for each user, or for each source and object.
package eventratelimit

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"

	"skiff/internal/apiserver/admission"
)

// Configuration is upstream's eventratelimit.admission.k8s.io/v1alpha1
// Configuration.
type Configuration struct {
	APIVersion string  `json:"apiVersion,omitempty"`
	Kind       string  `json:"kind,omitempty"`
	Limits     []Limit `json:"limits"`
}

// Limit is one bound, for everything that has the same key.
type Limit struct {
	// Type says what the key is: Server, Namespace, User or SourceAndObject.
	Type string `json:"type"`
	// QPS events a second are let through, and Burst at once.
	QPS   int32 `json:"qps"`
	Burst int32 `json:"burst"`
	// CacheSize is how many keys are kept apart (default 4096).
	CacheSize int32 `json:"cacheSize,omitempty"`
}

// Plugin implements admission.Validator.
type Plugin struct{ limits []limit }

type limit struct {
	Limit
	key     func(*admission.Attributes) string
	buckets *lru.Cache
	clock   clock.Clock
}

// New returns the plug-in; it wants at least one limit.
func New(c Configuration, clk clock.Clock) (*Plugin, error) {
	if len(c.Limits) == 0 {
		return nil, fmt.Errorf("limits: Required value: set at least one in a configuration of kind Configuration, version eventratelimit.admission.k8s.io/v1alpha1")
	}
	keys := map[string]func(*admission.Attributes) string{
		"Server": func(*admission.Attributes) string { return "" }, "Namespace": func(a *admission.Attributes) string { return a.Namespace },
		"User": userKey, "SourceAndObject": sourceAndObject,
	}
	p := &Plugin{}
	for i, l := range c.Limits {
		key := keys[l.Type]
		switch {
		case key == nil:
			return nil, fmt.Errorf("limits[%d].type: Unsupported value: %q: supported values: Namespace, Server, SourceAndObject, User", i, l.Type)
		case l.Burst <= 0:
			return nil, fmt.Errorf("limits[%d].burst: Invalid value: %d: must be positive", i, l.Burst)
		case l.QPS <= 0:
			return nil, fmt.Errorf("limits[%d].qps: Invalid value: %d: must be positive", i, l.QPS)
		case l.CacheSize < 0:
			return nil, fmt.Errorf("limits[%d].cacheSize: Invalid value: %d: must not be negative", i, l.CacheSize)
		}
		size := int(l.CacheSize)
		if size == 0 {
			size = 4096
		}
		p.limits = append(p.limits, limit{l, key, lru.New(size), clk})
	}
	return p, nil
}

func userKey(a *admission.Attributes) string {
	if a.User == nil {
		return ""
	}
	return a.User.Name
}

func sourceAndObject(a *admission.Attributes) string {
	e, ok := a.Object.(*corev1.Event)
	if !ok {
		return ""
	}
	o := &e.InvolvedObject
	return strings.Join([]string{e.Source.Component, e.Source.Host, o.Kind, o.Namespace, o.Name, string(o.UID), o.APIVersion}, "")
}

// Validate implements admission.Validator.
func (p *Plugin) Validate(_ context.Context, a *admission.Attributes) error {
	if a.Resource.Resource != "events" || a.Resource.Group != "" && a.Resource.Group != "events.k8s.io" || a.DryRun ||
		a.Operation != admission.Create && a.Operation != admission.Update {
		return nil
	}
	// Every limit counts the event, whichever refuses it first.
	var refusal error
	for i := range p.limits {
		l := &p.limits[i]
		if key := l.key(a); !l.bucket(key).TryAccept() && refusal == nil {
			refusal = apierrors.NewTooManyRequestsError(fmt.Sprintf("limit reached on type %v for key %v", l.Type, key))
		}
	}
	return refusal
}

func (l *limit) bucket(key string) flowcontrol.PassiveRateLimiter {
	if b, ok := l.buckets.Get(key); ok {
		return b.(flowcontrol.PassiveRateLimiter)
	}
	b := flowcontrol.NewTokenBucketPassiveRateLimiterWithClock(float32(l.QPS), int(l.Burst), l.clock)
	l.buckets.Add(key, b)
	return b
}
