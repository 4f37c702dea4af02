package dns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/plugin/kubernetes"
	"github.com/coredns/coredns/plugin/kubernetes/object"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"
)

// index holds the cluster's Services, EndpointSlices and Namespaces in the
// form and order in which CoreDNS's Kubernetes plugin asks for them. It takes
// the place of the plugin's own controller and follows the shared cache.
type index struct {
	cache    cache.Cache
	modified atomic.Int64
	synced   atomic.Bool

	mu sync.RWMutex // protects the following
	// onSlice, when set, is told of every event of a slice.
	onSlice    func(name types.NamespacedName)
	services   map[string]*object.Service
	byIP       map[string][]*object.Service
	endpoints  map[string]map[string]*object.Endpoints
	byAddress  map[string][]*object.Endpoints
	namespaces map[string]*object.Namespace
}

func newIndex(c cache.Cache) *index {
	return &index{
		cache:      c,
		services:   map[string]*object.Service{},
		byIP:       map[string][]*object.Service{},
		endpoints:  map[string]map[string]*object.Endpoints{},
		byAddress:  map[string][]*object.Endpoints{},
		namespaces: map[string]*object.Namespace{},
	}
}

// watch follows the shared cache and returns when its present state is in.
func (x *index) watch(ctx context.Context) error {
	var arrived []toolscache.DoneChecker
	for _, w := range []struct {
		obj    ctrlclient.Object
		change func(obj any, gone bool)
	}{
		{&corev1.Namespace{}, x.namespace},
		{&corev1.Service{}, x.service},
		{&discoveryv1.EndpointSlice{}, x.slice},
	} {
		informer, err := x.cache.GetInformer(ctx, w.obj)
		if err != nil {
			return fmt.Errorf("watch for DNS: %w", err)
		}
		registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { w.change(o, false) },
			UpdateFunc: func(_, o any) { w.change(o, false) },
			DeleteFunc: func(o any) {
				if unknown, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
					o = unknown.Obj
				}
				w.change(o, true)
			},
		})
		if err != nil {
			return fmt.Errorf("watch for DNS: %w", err)
		}
		context.AfterFunc(ctx, func() { _ = informer.RemoveEventHandler(registration) })
		arrived = append(arrived, registration.HasSyncedChecker())
	}
	for _, a := range arrived {
		select {
		case <-a.Done():
		case <-ctx.Done():
			return nil
		}
	}
	x.synced.Store(true)
	return nil
}

// follow has f told of every event of a slice. f must not block.
func (x *index) follow(f func(name types.NamespacedName)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.onSlice = f
}

func (x *index) namespace(obj any, gone bool) {
	n, ok := obj.(*corev1.Namespace)
	if !ok {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if gone {
		delete(x.namespaces, n.Name)
	} else {
		x.namespaces[n.Name] = &object.Namespace{Version: n.ResourceVersion, Name: n.Name}
	}
}

func (x *index) service(obj any, gone bool) {
	s, ok := obj.(*corev1.Service)
	if !ok {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	name := object.ServiceKey(s.Name, s.Namespace)
	if old := x.services[name]; old != nil {
		delete(x.services, name)
		for _, ip := range old.ClusterIPs {
			remove(x.byIP, ip, old)
		}
	}
	if now, ok := convert[*object.Service](shallow(s), object.ToService); ok && !gone {
		x.services[name] = now
		for _, ip := range now.ClusterIPs {
			x.byIP[ip] = append(x.byIP[ip], now)
		}
	}
	x.touch()
}

func (x *index) slice(obj any, gone bool) {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.onSlice != nil {
		x.onSlice(types.NamespacedName{Namespace: s.Namespace, Name: s.Name})
	}
	service := object.EndpointsKey(s.Labels[discoveryv1.LabelServiceName], s.Namespace)
	if old := x.endpoints[service][s.Name]; old != nil {
		delete(x.endpoints[service], s.Name)
		if len(x.endpoints[service]) == 0 {
			delete(x.endpoints, service)
		}
		for _, ip := range old.IndexIP {
			remove(x.byAddress, ip, old)
		}
	}
	if now, ok := convert[*object.Endpoints](shallow(s), object.EndpointSliceToEndpoints); ok && !gone {
		if x.endpoints[service] == nil {
			x.endpoints[service] = map[string]*object.Endpoints{}
		}
		x.endpoints[service][s.Name] = now
		for _, ip := range now.IndexIP {
			x.byAddress[ip] = append(x.byAddress[ip], now)
		}
	}
	x.touch()
}

// touch records a change. x.mu is held.
func (x *index) touch() { x.modified.Store(time.Now().Unix()) }

// shallow copies an object's outermost struct, because the plugin's conversions
// clear what they are given. Events bring objects that belong to everyone.
func shallow[T any](obj *T) *T {
	c := *obj
	return &c
}

func convert[T any](obj metav1.Object, f object.ToFunc) (T, bool) {
	out, err := f(obj)
	if err != nil {
		var none T
		return none, false
	}
	t, ok := out.(T)
	return t, ok
}

func remove[T comparable](m map[string][]T, k string, v T) {
	rest := slices.DeleteFunc(slices.Clone(m[k]), func(o T) bool { return o == v })
	if len(rest) == 0 {
		delete(m, k)
	} else {
		m[k] = rest
	}
}

// The methods below are what the plugin wants of a controller.

// SvcIndex returns the Service with the key name.namespace.
func (x *index) SvcIndex(k string) []*object.Service {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if s := x.services[k]; s != nil {
		return []*object.Service{s}
	}
	return nil
}

// SvcIndexReverse returns the Services with a cluster address.
func (x *index) SvcIndexReverse(ip string) []*object.Service {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Clone(x.byIP[ip])
}

// EpIndex returns the endpoints of the Service with the key name.namespace.
func (x *index) EpIndex(k string) []*object.Endpoints {
	x.mu.RLock()
	defer x.mu.RUnlock()
	out := make([]*object.Endpoints, 0, len(x.endpoints[k]))
	for _, e := range x.endpoints[k] {
		out = append(out, e)
	}
	return out
}

// EpIndexReverse returns the endpoints with an address.
func (x *index) EpIndexReverse(ip string) []*object.Endpoints {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Clone(x.byAddress[ip])
}

// ServiceList returns all Services.
func (x *index) ServiceList() []*object.Service {
	x.mu.RLock()
	defer x.mu.RUnlock()
	out := make([]*object.Service, 0, len(x.services))
	for _, s := range x.services {
		out = append(out, s)
	}
	return out
}

// EndpointsList returns all endpoints.
func (x *index) EndpointsList() []*object.Endpoints {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var out []*object.Endpoints
	for _, of := range x.endpoints {
		for _, e := range of {
			out = append(out, e)
		}
	}
	return out
}

// GetNamespaceByName returns a Namespace or an error if there is none.
func (x *index) GetNamespaceByName(name string) (*object.Namespace, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if n := x.namespaces[name]; n != nil {
		return n, nil
	}
	return nil, errors.New("namespace not found")
}

// GetNodeByName returns a Node.
func (x *index) GetNodeByName(ctx context.Context, name string) (*corev1.Node, error) {
	n := &corev1.Node{}
	return n, x.cache.Get(ctx, types.NamespacedName{Name: name}, n)
}

// PodIndex returns nothing: pod names are answered without looking at pods.
func (x *index) PodIndex(string) []*object.Pod { return nil }

// SvcExtIndexReverse returns nothing: external addresses have no names.
func (x *index) SvcExtIndexReverse(string) []*object.Service { return nil }

// ServiceImportList, SvcImportIndex and McEpIndex return nothing: there is no
// multi-cluster zone.
func (x *index) ServiceImportList() []*object.ServiceImport { return nil }

// SvcImportIndex returns nothing.
func (x *index) SvcImportIndex(string) []*object.ServiceImport { return nil }

// McEpIndex returns nothing.
func (x *index) McEpIndex(string) []*object.MultiClusterEndpoints { return nil }

// Run does nothing: watch has begun before.
func (x *index) Run() {}

// Stop does nothing: the watch ends with its context.
func (x *index) Stop() error { return nil }

// HasSynced says whether the first state is in.
func (x *index) HasSynced() bool { return x.synced.Load() }

// Modified returns when something changed last, in seconds since 1970.
func (x *index) Modified(kubernetes.ModifiedMode) int64 { return x.modified.Load() }
