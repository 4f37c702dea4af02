// Package references keeps the config maps and secrets that the volumes of a
// node's pods show. A node may only watch such objects one by one, and only
// those its pods refer to, so that each has a watch of its own as long as a
// pod needs it.
package references

import (
	"context"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Ref names an object.
type Ref struct {
	Secret          bool // else a ConfigMap
	Namespace, Name string
}

// Store holds the objects. Objects it returns are shared: copy before change.
type Store struct {
	client  client.WithWatch
	clock   clock.Clock
	log     *slog.Logger
	changed func(podUID string)

	mu      sync.Mutex
	ctx     context.Context
	entries map[Ref]*entry
	pods    map[string][]Ref
}

type entry struct {
	pods   map[string]bool
	object client.Object // nil until seen, or when deleted
	stop   context.CancelFunc
}

// New returns a store. changed is called with each pod that shows an object
// that changed. Watches end with ctx.
func New(ctx context.Context, c client.WithWatch, clk clock.Clock, log *slog.Logger, changed func(podUID string)) *Store {
	return &Store{
		client: c, clock: clk, log: log, changed: changed, ctx: ctx,
		entries: map[Ref]*entry{}, pods: map[string][]Ref{},
	}
}

// SetPod says which objects the volumes of a pod refer to; none releases all.
func (s *Store) SetPod(uid string, refs []Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := map[Ref]bool{}
	for _, r := range refs {
		wanted[r] = true
		e := s.entries[r]
		if e == nil {
			ctx, stop := context.WithCancel(s.ctx)
			e = &entry{pods: map[string]bool{}, stop: stop}
			s.entries[r] = e
			go s.watch(ctx, r)
		}
		e.pods[uid] = true
	}
	for _, r := range s.pods[uid] {
		if wanted[r] {
			continue
		}
		e := s.entries[r]
		delete(e.pods, uid)
		if len(e.pods) == 0 {
			e.stop()
			delete(s.entries, r)
		}
	}
	if len(refs) == 0 {
		delete(s.pods, uid)
		return
	}
	s.pods[uid] = refs
}

// ConfigMap returns a config map: the watched one, or read from the server.
func (s *Store) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	if o, ok := s.watched(Ref{Namespace: namespace, Name: name}).(*v1.ConfigMap); ok {
		return o, nil
	}
	o := &v1.ConfigMap{}
	return o, s.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, o)
}

// Secret returns a secret: the watched one, or read from the server.
func (s *Store) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	if o, ok := s.watched(Ref{Secret: true, Namespace: namespace, Name: name}).(*v1.Secret); ok {
		return o, nil
	}
	o := &v1.Secret{}
	return o, s.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, o)
}

func (s *Store) watched(r Ref) client.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[r]; e != nil {
		return e.object
	}
	return nil
}

const retryDelay = 2 * time.Second

func (s *Store) watch(ctx context.Context, r Ref) {
	for ctx.Err() == nil {
		if err := s.follow(ctx, r); err != nil && ctx.Err() == nil {
			s.log.Debug("watching object of a pod", "namespace", r.Namespace, "name", r.Name, "err", err)
		}
		// Without a watch, what is kept may be out of date.
		s.set(r, nil, false)
		select {
		case <-ctx.Done():
		case <-s.clock.After(retryDelay):
		}
	}
}

func (s *Store) follow(ctx context.Context, r Ref) error {
	var list client.ObjectList = &v1.ConfigMapList{}
	if r.Secret {
		list = &v1.SecretList{}
	}
	w, err := s.client.Watch(ctx, list, client.InNamespace(r.Namespace), client.MatchingFields{"metadata.name": r.Name})
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ev, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			switch ev.Type {
			case watch.Added, watch.Modified:
				if o, ok := ev.Object.(client.Object); ok {
					s.set(r, o, true)
				}
			case watch.Deleted:
				s.set(r, nil, true)
			case watch.Error:
				return nil
			}
		}
	}
}

func (s *Store) set(r Ref, o client.Object, notify bool) {
	s.mu.Lock()
	e := s.entries[r]
	if e == nil {
		s.mu.Unlock()
		return
	}
	same := e.object != nil && o != nil && e.object.GetResourceVersion() == o.GetResourceVersion()
	e.object = o
	var pods []string
	if notify && !same {
		for uid := range e.pods {
			pods = append(pods, uid)
		}
	}
	s.mu.Unlock()
	for _, uid := range pods {
		s.changed(uid)
	}
}

// OfVolumes returns the objects that the pod's volumes show.
func OfVolumes(pod *v1.Pod) []Ref {
	var refs []Ref
	seen := map[Ref]bool{}
	add := func(secret bool, name string) {
		r := Ref{Secret: secret, Namespace: pod.Namespace, Name: name}
		if !seen[r] {
			seen[r] = true
			refs = append(refs, r)
		}
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.ConfigMap != nil:
			add(false, v.ConfigMap.Name)
		case v.Secret != nil:
			add(true, v.Secret.SecretName)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					add(false, s.ConfigMap.Name)
				}
				if s.Secret != nil {
					add(true, s.Secret.Name)
				}
			}
		}
	}
	return refs
}
