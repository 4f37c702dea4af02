package metrics

import (
	"testing"
	"time"
)

func TestSince(t *testing.T) {
	t0 := time.Unix(1e9, 0)
	at := func(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }
	before := &series{sample: sample{at: at(0), started: at(-100), cpu: 50}, usage: &usage{cores: 9}}
	for _, tt := range []struct {
		name   string
		before *series
		now    sample
		cores  float64 // -1: not known
		window time.Duration
	}{
		{"difference", before, sample{at: at(10), started: at(-100), cpu: 55}, 0.5, 10 * time.Second},
		{"not measured anew", before, sample{at: at(0), started: at(-100), cpu: 50}, 9, 0},
		{"old and seen first", nil, sample{at: at(10), started: at(-100), cpu: 55}, -1, 0},
		{"new", nil, sample{at: at(16), started: at(6), cpu: 5}, 0.5, 10 * time.Second},
		{"too new", nil, sample{at: at(15), started: at(6), cpu: 5}, -1, 0},
		{"restarted", before, sample{at: at(16), started: at(6), cpu: 5}, 0.5, 10 * time.Second},
		{"counter reset, nobody knows when", before, sample{at: at(10), started: at(-100), cpu: 5}, -1, 0},
	} {
		s := &series{sample: tt.now}
		s.since(tt.before, at(0))
		switch {
		case s.usage == nil:
			if tt.cores != -1 {
				t.Errorf("%s: not known", tt.name)
			}
		case s.usage.cores != tt.cores || s.usage.window != tt.window:
			t.Errorf("%s: %+v", tt.name, s.usage)
		}
	}
}
