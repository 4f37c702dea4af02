// Package scheduler gives pods without a node a node. It behaves as upstream's
// kube-scheduler and takes its configuration; see the package class for how it
// decides.
//
// All state is behind one lock: events change the picture of the cluster, and
// one loop takes a pod from the queue, decides, and assumes the decision, all
// without waiting for anything. What needs the API (binding, status, making
// room) is done by others afterwards, many at a time.
package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/clock"

	"skiff/internal/client"
	"skiff/internal/scheduler/cache"
	"skiff/internal/scheduler/class"
	"skiff/internal/scheduler/config"
	"skiff/internal/scheduler/extender"
	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/plugins/dynamicresources"
	"skiff/internal/scheduler/plugins/volumebinding"
	"skiff/internal/scheduler/queue"
)

// DefaultName is the scheduler that pods ask for if they name none.
const DefaultName = corev1.DefaultSchedulerName

const (
	// writers is how many API writes run at a time. They share the store's
	// fsyncs, so that many together take hardly longer than one.
	writers = 128
	// keptClasses is how many classes of equal pods are remembered.
	keptClasses = 64
)

// Config is what a Scheduler is given.
type Config struct {
	// Client acts as system:kube-scheduler.
	Client client.Set
	// Configuration has the profiles, as config.Load returns it; nil means the
	// default.
	Configuration *configv1.KubeSchedulerConfiguration
	// Clock measures the backoff of pods that failed.
	Clock clock.WithTicker
	Log   *slog.Logger
	// Seed decides between nodes that are equally good.
	Seed uint64
	// Metrics is where the scheduler's metrics go; nil: nowhere.
	Metrics prometheus.Registerer
}

// Scheduler schedules pods.
type Scheduler struct {
	client client.Set
	config *configv1.KubeSchedulerConfiguration
	clock  clock.WithTicker
	log    *slog.Logger
	seed   uint64
	// profiles are by the names of schedulers that pods ask for.
	profiles  map[string]*profile
	extenders []*extender.Extender
	volumes   *volumebinding.Plugin
	metrics   *metrics
	devices   *dynamicresources.Plugin
	// woken has a token if there may be something to do.
	woken chan struct{}
	// slots limits the writers.
	slots   chan struct{}
	writing sync.WaitGroup

	mu struct {
		sync.Mutex
		cache   *cache.Cache
		queue   *queue.Queue
		classes *class.Classes
		// nominated is where room is being made for waiting pods.
		nominated  map[types.UID]string
		namespaces map[string]labels.Set
		// presented counts nodes that extenders were asked about.
		presented int
	}
}

// New makes a scheduler; Run makes it work.
func New(c Config) (*Scheduler, error) {
	if c.Client.Client == nil || c.Client.Cache == nil || c.Client.Recorder == nil {
		return nil, errors.New("scheduler: the client is incomplete: it needs Client, Cache and Recorder")
	}
	if c.Clock == nil || c.Log == nil {
		return nil, errors.New("scheduler: Clock and Log are required")
	}
	if c.Configuration == nil {
		c.Configuration = config.Default()
	}
	s := &Scheduler{
		client: c.Client, config: c.Configuration, clock: c.Clock, log: c.Log, seed: c.Seed,
		metrics: newMetrics(c.Metrics),
		woken:   make(chan struct{}, 1),
		slots:   make(chan struct{}, writers),
	}
	for _, why := range config.Ignored(c.Configuration) {
		c.Log.Warn("a field of the configuration has no effect", "field", why)
	}
	s.mu.cache = cache.New()
	s.mu.classes = class.NewClasses(keptClasses)
	s.mu.nominated = make(map[types.UID]string)
	s.mu.namespaces = make(map[string]labels.Set)
	s.volumes = volumebinding.New(s.client, s.clock)
	s.devices = dynamicresources.New(s.client, s.clock)
	var err error
	if s.profiles, err = s.newProfiles(); err != nil {
		return nil, err
	}
	for _, e := range c.Configuration.Extenders {
		made, err := extender.New(e)
		if err != nil {
			return nil, err
		}
		s.extenders = append(s.extenders, made)
	}
	s.mu.queue = queue.New(queue.Options{
		// All profiles have the same order.
		Less: s.profiles[*c.Configuration.Profiles[0].SchedulerName].QueueSort.Less,
		Gate: s.gate, Cures: s.cures, Now: s.clock.Now, Moved: s.moved(),
		InitialBackoff: time.Duration(*c.Configuration.PodInitialBackoffSeconds) * time.Second,
		MaxBackoff:     time.Duration(*c.Configuration.PodMaxBackoffSeconds) * time.Second,
	})
	if c.Metrics != nil {
		c.Metrics.MustRegister(s)
	}
	return s, nil
}

// moved counts pods that are put on a queue. It is called with the lock held.
func (s *Scheduler) moved() func(queue, event string) {
	known := map[[2]string]prometheus.Counter{}
	return func(queue, event string) {
		c := known[[2]string{queue, event}]
		if c == nil {
			c = s.metrics.incoming.WithLabelValues(queue, event)
			known[[2]string{queue, event}] = c
		}
		c.Inc()
	}
}

// Run schedules pods until ctx ends. It returns an error if it could not follow
// the cluster.
func (s *Scheduler) Run(ctx context.Context) error {
	stop, err := s.follow(ctx)
	defer stop()
	if err != nil {
		return err
	}
	defer s.writing.Wait()
	for ctx.Err() == nil {
		if next, waiting := s.next(ctx); waiting {
			s.carryOut(ctx, next)
			continue
		}
		if !s.wait(ctx) {
			break
		}
	}
	return nil
}

// wait returns when there may be a pod to try; it reports whether to go on.
func (s *Scheduler) wait(ctx context.Context) bool {
	s.mu.Lock()
	ready, backoff := s.mu.queue.Ready()
	s.mu.Unlock()
	var timeout <-chan time.Time
	if backoff {
		timer := s.clock.NewTimer(ready.Sub(s.clock.Now()))
		defer timer.Stop()
		timeout = timer.C()
	}
	select {
	case <-ctx.Done():
		return false
	case <-s.woken:
	case <-timeout:
	}
	return true
}

func (s *Scheduler) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

func (s *Scheduler) gate(pod *corev1.Pod) *framework.Status {
	for _, p := range s.profileOf(pod).PreEnqueue {
		if why := p.PreEnqueue(pod); why != nil {
			return why
		}
	}
	return nil
}

func (s *Scheduler) cures(plugin string, pod *framework.PodInfo, e framework.Event) bool {
	p, ok := s.profileOf(pod.Pod).hints[plugin]
	return !ok || p.Cures(pod, e)
}

// profileOf returns the profile of a pod of the queue.
func (s *Scheduler) profileOf(pod *corev1.Pod) *profile { return s.profiles[pod.Spec.SchedulerName] }

// classLocked returns the class of equal pods that pod belongs to.
func (s *Scheduler) classLocked(pod *framework.PodInfo) *class.Class {
	return s.mu.classes.Of(pod, func() *class.Class { return class.New(s.profileOf(pod.Pod).Profile, s.mu.cache, pod, s.seed) })
}

// namespaceLocked returns the labels of a namespace.
func (s *Scheduler) namespaceLocked(name string) labels.Set { return s.mu.namespaces[name] }
