package metrics

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// parallel is how many kubelets are read at a time, each for at most
	// patience.
	parallel = 32
	patience = 10 * time.Second
	// maxBody is far more than a full node has to say.
	maxBody = 16 << 20
	// youngest is the age from which a container that started since the last
	// round is measured from its start.
	youngest = 10 * time.Second
)

// node is what is known of one node and its pods. It is not changed once it
// was published.
type node struct {
	whole series
	pods  map[types.NamespacedName]map[string]*series
}

// series is the newest measurement of a node or container, and the usage up to
// it, which is nil after a first measurement.
type series struct {
	sample
	usage *usage
}

// sample is a measurement: cpu is in seconds since the start.
type sample struct {
	at      time.Time
	started time.Time
	cpu     float64
	memory  int64
}

// usage is that over a window of time.
type usage struct {
	at     time.Time
	window time.Duration
	cores  float64
	memory int64
}

// round reads all kubelets. Nodes that do not answer are left out.
func (c *Collector) round(ctx context.Context, last map[string]*node) map[string]*node {
	var list corev1.NodeList
	if err := c.Cache.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		c.Log.Error("listing nodes", "error", err)
	}
	next := make(map[string]*node, len(list.Items))
	var mu sync.Mutex
	var all errgroup.Group
	all.SetLimit(parallel)
	for i := range list.Items {
		n := &list.Items[i]
		all.Go(func() error {
			m, err := c.read(ctx, n)
			if err != nil {
				if ctx.Err() == nil {
					c.Log.Warn("the usage of a node cannot be read", "node", n.Name, "error", err)
				}
				return nil
			}
			m.since(last[n.Name])
			mu.Lock()
			defer mu.Unlock()
			next[n.Name] = m
			return nil
		})
	}
	_ = all.Wait() // no function fails
	return next
}

func (c *Collector) read(ctx context.Context, n *corev1.Node) (*node, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	base, transport, err := c.Kubelets.Kubelet(ctx, n)
	if err != nil {
		return nil, err
	}
	address := base.JoinPath("/metrics/resource").String()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", address, response.Status)
	}
	return parse(io.LimitReader(response.Body, maxBody), c.Clock.Now())
}

// parse reads a kubelet's resource metrics; now stands for times that are
// missing.
func parse(r io.Reader, now time.Time) (*node, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(r)
	if err != nil {
		return nil, fmt.Errorf("the kubelet's metrics cannot be read: %w", err)
	}
	n := &node{pods: map[types.NamespacedName]map[string]*series{}}
	each := func(name string, set func(s *sample, value float64)) {
		for _, m := range families[name].GetMetric() {
			s := n.series(m)
			if ms := m.GetTimestampMs(); ms != 0 {
				s.at = time.UnixMilli(ms)
			} else if s.at.IsZero() {
				s.at = now
			}
			set(&s.sample, value(m))
		}
	}
	cpu := func(s *sample, v float64) { s.cpu = v }
	memory := func(s *sample, v float64) { s.memory = int64(v) }
	each("container_start_time_seconds", func(s *sample, v float64) { s.started = time.UnixMilli(int64(v * 1000)) })
	each("node_memory_working_set_bytes", memory)
	each("container_memory_working_set_bytes", memory)
	// Last, for the time of the CPU's measurement is the one that matters.
	each("node_cpu_usage_seconds_total", cpu)
	each("container_cpu_usage_seconds_total", cpu)
	return n, nil
}

// series finds whose metric it is.
func (n *node) series(m *dto.Metric) *series {
	labels := map[string]string{}
	for _, l := range m.GetLabel() {
		labels[l.GetName()] = l.GetValue()
	}
	container, ok := labels["container"]
	if !ok {
		return &n.whole
	}
	pod := types.NamespacedName{Namespace: labels["namespace"], Name: labels["pod"]}
	if n.pods[pod] == nil {
		n.pods[pod] = map[string]*series{}
	}
	s := n.pods[pod][container]
	if s == nil {
		s = &series{}
		n.pods[pod][container] = s
	}
	return s
}

func value(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	}
	return m.Untyped.GetValue()
}

// since computes the usage since the last round; last is nil if there was
// none.
func (n *node) since(last *node) {
	if last == nil {
		return
	}
	n.whole.since(&last.whole, last.whole.at)
	for pod, containers := range n.pods {
		for name, s := range containers {
			s.since(last.pods[pod][name], last.whole.at)
		}
	}
}

// since computes the usage since the measurement before, which is nil for what
// is new; round is the time of the last round.
func (s *series) since(before *series, round time.Time) {
	switch {
	case before != nil && !s.at.After(before.at):
		// Not measured anew.
		*s = *before
	case before == nil || s.cpu < before.cpu || s.started.After(before.at):
		if s.started.After(round) && s.at.Sub(s.started) >= youngest {
			s.used(s.started, s.cpu)
		}
	default:
		s.used(before.at, s.cpu-before.cpu)
	}
}

func (s *series) used(from time.Time, cpu float64) {
	window := s.at.Sub(from)
	s.usage = &usage{at: s.at, window: window, cores: cpu / window.Seconds(), memory: s.memory}
}
