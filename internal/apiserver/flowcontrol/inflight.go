package flowcontrol

import "sync/atomic"

// InFlight is the plain limit that holds where priority and fairness is turned
// off: so many requests that change something at a time, and so many others. A
// limit of 0 is none.
type InFlight struct {
	ReadOnly, Mutating int
	readOnly, mutating atomic.Int64
}

// Enter counts a request; ok is false if there are too many. Leave must be
// called when the request that entered is over.
func (f *InFlight) Enter(mutating bool) (leave func(), ok bool) {
	count, limit := &f.readOnly, f.ReadOnly
	if mutating {
		count, limit = &f.mutating, f.Mutating
	}
	if n := count.Add(1); limit > 0 && n > int64(limit) {
		count.Add(-1)
		return nil, false
	}
	return func() { count.Add(-1) }, true
}
