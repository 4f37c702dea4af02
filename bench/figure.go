package main

import (
	"fmt"
	"slices"
	"time"
)

// A figure is one result.
type figure struct {
	name  string
	value float64
	unit  string
	// upstream is the same for Kubernetes v1.36 with etcd 3.6 on two
	// processors, measured in another run; 0 where nobody measured it.
	upstream float64
	// less tells that a smaller value is better.
	less bool
}

// Upstream's figures, for runs without upstream's programs.
const (
	upstreamReady      = 3.5  // s from start to /readyz, etcd included
	upstreamIdle       = 494  // MB of resident memory
	upstreamConfigMaps = 1010 // creates/s by 64 clients
	upstreamPods       = 564  // creates/s by 64 clients
	upstreamProtobuf   = 3.8  // LISTs of 10,000 pods/s
	upstreamJSON       = 2.0  // LISTs of 10,000 pods/s
	upstreamWatchP99   = 530  // ms to 1,000 watchers
	upstreamPerPod     = 132  // kB of resident memory for each stored pod
	upstreamScheduled  = 123  // pods/s

	upstreamAntiAffinity = 54 // pods/s on 1,000 nodes
	upstreamZoneSpread   = 73 // pods/s on 1,000 nodes
)

// better returns how many times as good as upstream the value is.
func (f figure) better() float64 {
	if f.less {
		return f.upstream / f.value
	}
	return f.value / f.upstream
}

func (b *bench) report(f figure) {
	// Figures below another one have the same names.
	if f.name[0] != ' ' {
		b.above = f.name
	}
	name := b.above + f.name
	if b.asUpstream {
		b.measured[name] = f.value
		return
	}
	if v, ok := b.measured[name]; ok {
		f.upstream = v
	}
	upstream, ratio := "", ""
	if f.upstream > 0 {
		upstream = number(f.upstream) + " " + f.unit
		ratio = fmt.Sprintf("%.1f×", f.better())
	}
	if b.markdown {
		fmt.Fprintf(b.out, "| %s | %s %s | %s | %s |\n", f.name, number(f.value), f.unit, upstream, ratio)
		return
	}
	fmt.Fprintf(b.out, "%-52s %10s %-10s", f.name, number(f.value), f.unit)
	if f.upstream > 0 {
		fmt.Fprintf(b.out, " upstream %-16s %s", upstream, ratio)
	}
	fmt.Fprintln(b.out)
}

// number shows about three digits.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// percentile returns the p-th percentile of some durations, which it sorts.
func percentile(d []time.Duration, p int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)*p/100, len(d)-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
