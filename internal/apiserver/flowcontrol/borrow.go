package flowcontrol

import (
	"math"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/utils/ptr"
)

const (
	// adjustPeriod is how often limits follow the demand, as long as some level
	// is crowded.
	adjustPeriod = 10 * time.Second
	// smoothing halves the memory of a level's demand in five minutes.
	smoothing = 0.977
)

// demand is the account of how many seats a level could have used since the
// last adjustment.
type demand struct {
	since, at          time.Time
	now, highest       float64
	area, areaOfSquare float64
	smoothed           float64
	average, deviation float64
}

// note says that the demand was d.now until t and is value from then on.
func (d *demand) note(t time.Time, value float64) {
	if passed := t.Sub(d.at).Seconds(); passed > 0 {
		d.area += passed * d.now
		d.areaOfSquare += passed * d.now * d.now
		d.at = t
	}
	d.now = value
	d.highest = max(d.highest, value)
}

// settle closes the account of a period and returns its highest demand.
func (d *demand) settle(t time.Time) (highest int) {
	d.note(t, d.now)
	if length := t.Sub(d.since).Seconds(); length > 0 {
		d.average = d.area / length
		d.deviation = math.Sqrt(max(0, d.areaOfSquare/length-d.average*d.average))
		envelope := d.average + d.deviation
		d.smoothed = max(envelope, smoothing*d.smoothed+(1-smoothing)*envelope)
	}
	highest = int(d.highest)
	d.since, d.area, d.areaOfSquare, d.highest = t, 0, 0, d.now
	return highest
}

// boundsOf shares out the seats by the level's part of all shares.
func boundsOf(p *flowcontrolv1.PriorityLevelConfiguration, seats int, sum float64) (b bounds, initial int) {
	shares, lendable, borrow := sharesOf(p)
	b.nominal = int(math.Ceil(float64(seats) * float64(shares) / sum))
	lend := int(math.Round(float64(b.nominal) * float64(lendable) / 100))
	b.lower, b.upper = b.nominal-lend, b.nominal+seats
	if borrow != nil {
		b.upper = b.nominal + int(math.Round(float64(b.nominal)*float64(*borrow)/100))
	}
	return b, max(1, b.nominal-lend/2)
}

func sharesOf(p *flowcontrolv1.PriorityLevelConfiguration) (shares, lendable int32, borrow *int32) {
	switch {
	case p.Spec.Limited != nil:
		l := p.Spec.Limited
		return ptr.Deref(l.NominalConcurrencyShares, 30), ptr.Deref(l.LendablePercent, 0), l.BorrowingLimitPercent
	case p.Spec.Exempt != nil:
		e := p.Spec.Exempt
		return ptr.Deref(e.NominalConcurrencyShares, 0), ptr.Deref(e.LendablePercent, 0), ptr.To[int32](0)
	}
	return 0, 0, ptr.To[int32](0)
}

// adjustSoon has the limits follow the demand after a period. While no level is
// crowded no timer runs.
func (c *Controller) adjustSoon() {
	if !c.adjusting.CompareAndSwap(false, true) {
		return
	}
	c.clock.AfterFunc(adjustPeriod, func() {
		c.adjusting.Store(false)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.adjustLocked()
	})
}

// share is a level's part in the division of seats.
type share struct {
	level                *level
	lower, upper, target float64
}

// adjustLocked divides the seats by demand: each level gets what it needs
// before others get more than they need, within its bounds.
func (c *Controller) adjustLocked() {
	now := c.clock.Now()
	total, lowest, needed := 0, 0, 0
	exempt := 0
	var shares []share
	for _, l := range c.mu.running {
		l.mu.Lock()
		highest := l.mu.demand.settle(now)
		b, smoothed := l.mu.bounds, l.mu.demand.smoothed
		l.mu.Unlock()
		total += b.nominal
		if l.exempt {
			exempt += max(b.lower, highest)
			continue
		}
		need := max(b.lower, min(b.nominal, highest))
		lowest += b.lower
		needed += need
		shares = append(shares, share{l, float64(need), float64(b.upper), max(float64(need), smoothed)})
	}
	left := total - exempt
	switch {
	case left <= lowest:
		c.metrics.fairFrac.Set(0)
		for _, s := range shares {
			s.level.setLimit(max(1, s.level.lower()))
		}
	case left <= needed:
		c.metrics.fairFrac.Set(0)
		part := float64(left-lowest) / float64(needed-lowest)
		for _, s := range shares {
			lower := s.level.lower()
			s.level.setLimit(max(1, lower+int(math.Round((s.lower-float64(lower))*part))))
		}
	default:
		frac := fairShare(shares, float64(total))
		c.metrics.fairFrac.Set(frac)
		for _, s := range shares {
			s.level.setLimit(max(1, int(math.Round(s.at(frac)))))
		}
	}
	for _, s := range shares {
		c.metrics.target.WithLabelValues(s.level.name).Set(s.target)
	}
}

func (l *level) lower() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.bounds.lower
}

// at is what the share gets when everybody gets frac of its target.
func (s share) at(frac float64) float64 { return min(s.upper, max(s.lower, frac*s.target)) }

// fairShare finds the fraction of their targets at which all shares together
// take the total; the sum grows with the fraction, so halving finds it.
func fairShare(shares []share, total float64) float64 {
	low, high := 0.0, 1.0
	sum := func(frac float64) (sum float64) {
		for _, s := range shares {
			sum += s.at(frac)
		}
		return sum
	}
	for high < 1e6 && sum(high) < total {
		low, high = high, high*2
	}
	for range 50 {
		if mid := (low + high) / 2; sum(mid) < total {
			low = mid
		} else {
			high = mid
		}
	}
	return high
}
