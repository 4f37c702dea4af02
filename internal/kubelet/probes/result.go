package probes

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// Kind is which of a container's probes.
type Kind int

// The kinds of probes.
const (
	Startup Kind = iota
	Readiness
	Liveness
)

// String returns the name that events use.
func (k Kind) String() string {
	return [...]string{"Startup", "Readiness", "Liveness"}[k]
}

// Result is what a probe says so far.
type Result int

// Results of a probe.
const (
	Unknown Result = iota
	Success
	Failure
)

// initial is a probe's result before it ran often enough.
func (k Kind) initial() Result {
	switch k {
	case Readiness:
		return Failure
	case Liveness:
		return Success
	default:
		return Unknown
	}
}

// spec returns the container's probe of this kind, or nil.
func (k Kind) spec(c *v1.Container) *v1.Probe {
	switch k {
	case Startup:
		return c.StartupProbe
	case Readiness:
		return c.ReadinessProbe
	default:
		return c.LivenessProbe
	}
}

// run is the count of equal outcomes in a row of one probe.
type run struct {
	last   Result
	length int32
	result Result
}

// add counts an outcome and reports whether the probe's result changed: it
// takes as many equal outcomes as the probe's threshold says.
func (r *run) add(p *v1.Probe, ok bool) bool {
	outcome, threshold := Failure, p.FailureThreshold
	if ok {
		outcome, threshold = Success, p.SuccessThreshold
	}
	if r.last == outcome {
		r.length++
	} else {
		r.last, r.length = outcome, 1
	}
	if r.length < max(threshold, 1) || r.result == outcome {
		return false
	}
	r.result = outcome
	return true
}

// period returns the time between two runs of p.
func period(p *v1.Probe) time.Duration {
	return time.Duration(max(p.PeriodSeconds, 1)) * time.Second
}

// timeout returns how long one run of p may take.
func timeout(p *v1.Probe) time.Duration {
	return time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
}

// firstRun returns when p runs first in a container started at started.
func firstRun(p *v1.Probe, started, now time.Time) time.Time {
	at := started.Add(time.Duration(p.InitialDelaySeconds) * time.Second)
	if at.Before(now) {
		return now
	}
	return at
}
