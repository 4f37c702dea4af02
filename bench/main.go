// Command bench measures what Skiff does in what time and space, and prints
// each figure beside upstream's (Kubernetes v1.36 with etcd 3.6): with -upstream,
// those of upstream's programs in the same run, otherwise those of another run on
// a machine with two processors. Servers are children of this process with a
// fresh data directory; all traffic stays on this machine. Every measurement is
// bounded in count and time.
//
// Usage: bench [flags] [measurement...]; without names, all that this machine
// can run.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A measurement yields one or more figures.
type measurement struct {
	name, what string
	// root tells that it makes namespaces and runs containers.
	root bool
	// both tells that it measures upstream as well, where there is one.
	both bool
	run  func(ctx context.Context, b *bench) error
}

var measurements = []measurement{
	{name: "start", what: "from the start of a server to /readyz", both: true, run: measureStart},
	{name: "idle", what: "what a server without workload uses", both: true, run: measureIdle},
	{name: "create", what: "creates per second by 64 clients", both: true, run: measureCreate},
	{name: "list", what: "LIST of 10,000 pods, and the memory they take", both: true, run: measureList},
	{name: "watch", what: "delivery to 1,000 watchers", both: true, run: measureWatch},
	{name: "schedule", what: "pods scheduled on nodes without kubelets", both: true, run: measureSchedule},
	{name: "rest", what: "a large cluster in which nothing happens", run: measureRest},
	{name: "deployment", what: "a large Deployment on nodes without kubelets", both: true, run: measureDeployment},
	{name: "up", what: "a development cluster, and how fast its pods start", root: true, run: measureUp},
}

// limit is the longest that one measurement may take.
const limit = 10 * time.Minute

// bench is what the measurements work with.
type bench struct {
	binary string
	// dir is removed in the end.
	dir      string
	out      io.Writer
	markdown bool
	// upstream is the directory of upstream's programs, if they are to be
	// measured; asUpstream is set while they are, and measured has their figures.
	upstream   string
	asUpstream bool
	measured   map[string]float64
	// above is the last figure that is not below another one.
	above string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	b := &bench{out: os.Stdout, measured: map[string]float64{}}
	dir := flag.String("dir", "", "directory of the servers' data: its disk counts (default: the system's for temporary files)")
	flag.StringVar(&b.binary, "skiff", filepath.Join("bin", "skiff"), "the program to measure")
	flag.StringVar(&b.upstream, "upstream", "", "directory with etcd, kube-apiserver, kube-controller-manager and kube-scheduler, to measure them in the same run")
	flag.BoolVar(&b.markdown, "markdown", false, "print rows of a Markdown table")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: bench [flags] [measurement...]")
		flag.PrintDefaults()
		for _, m := range measurements {
			fmt.Fprintf(flag.CommandLine.Output(), "  %-10s %s\n", m.name, m.what)
		}
	}
	flag.Parse()
	chosen, err := choose(flag.Args())
	if err != nil {
		return err
	}
	if b.binary, err = filepath.Abs(b.binary); err != nil {
		return err
	}
	if _, err := os.Stat(b.binary); err != nil {
		return fmt.Errorf("%w; build it with: make build", err)
	}
	if b.dir, err = os.MkdirTemp(*dir, "skiff-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.describeMachine(); err != nil {
		return err
	}
	var failed []string
	for _, m := range chosen {
		if m.root && os.Geteuid() != 0 {
			fmt.Fprintf(b.out, "%s: left out, it needs root\n", m.name)
			continue
		}
		if m.both && b.upstream != "" {
			b.asUpstream = true
			if err := m.within(ctx, b); err != nil {
				fmt.Fprintf(b.out, "%s of upstream: FAILED: %v\n", m.name, err)
			}
			b.asUpstream = false
		}
		if err := m.within(ctx, b); err != nil {
			fmt.Fprintf(b.out, "%s: FAILED: %v\n", m.name, err)
			failed = append(failed, m.name)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(failed, ", "))
	}
	return nil
}

// within runs the measurement for no longer than limit.
func (m *measurement) within(ctx context.Context, b *bench) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return m.run(ctx, b)
}

func choose(names []string) ([]measurement, error) {
	if len(names) == 0 {
		return measurements, nil
	}
	var chosen []measurement
	for _, name := range names {
		i := slices.IndexFunc(measurements, func(m measurement) bool { return m.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no measurement %q; see bench -help", name)
		}
		chosen = append(chosen, measurements[i])
	}
	return chosen, nil
}

// describeMachine prints what the figures depend on: processors, and how long
// the disk takes to make a small write durable.
func (b *bench) describeMachine() error {
	f, err := os.Create(filepath.Join(b.dir, "sync"))
	if err != nil {
		return err
	}
	defer f.Close()
	var syncs []time.Duration
	block := make([]byte, 4096)
	for range 100 {
		began := time.Now()
		if _, err := f.Write(block); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		syncs = append(syncs, time.Since(began))
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(b.out, "machine: %d processors, %s, durable write of 4 KiB %v (median), load average before %s\n",
		runtime.NumCPU(), processor(), percentile(syncs, 50).Round(time.Microsecond), strings.Fields(string(load))[0])
	return err
}

// processor returns the processor's name.
func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.Trim(name, "\t :\n")
		}
	}
	return runtime.GOARCH
}
