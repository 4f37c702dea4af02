// Package bootstrap makes the objects that a cluster has from the beginning, as
// upstream's API server and kubeadm do: namespaces, RBAC roles and bindings,
// priority classes, flow control, the range of Services. At each start they
// are compared with what is there, and only differences are written: rights
// and subjects that are missing come back, what administrators added stays,
// and what is annotated against it is left alone.
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Options are what the objects say about this cluster.
type Options struct {
	// ServiceCIDRs are the ranges of Services' addresses, one for each family.
	ServiceCIDRs []netip.Prefix
	// CA is the authority's certificate in PEM.
	CA           []byte
	FrontProxies FrontProxies
	// Server is the API server's URL for machines that join.
	Server string
	// Enabled tells which optional features are on; nil: none is.
	Enabled func(gate string) bool
}

// FrontProxies are the proxies that are believed who a user is: the authorities
// of their certificates (PEM), the certificates' names (none: any) and the
// headers by which they tell.
type FrontProxies struct {
	CA                                              []byte
	AllowedNames, Username, UID, Group, ExtraPrefix []string
}

// parallel is how many writes are under way at once, which share the
// database's syncs.
const parallel = 48

// Ensure makes what is missing and brings back what was changed. It must be
// called as a member of system:masters, and is safe to call from several
// servers at once.
func Ensure(ctx context.Context, c client.Client, o Options) error {
	objects, err := desired(o)
	if err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	e := &ensurer{c: c, existing: map[key]client.Object{}}
	if err := e.load(ctx); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	if err := each(ctx, namespaces(), e.namespace); err != nil {
		return err
	}
	return each(ctx, objects, e.object)
}

// each calls do for all items, several at once.
func each[T any](ctx context.Context, items []T, do func(context.Context, T) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, item := range items {
		group.Go(func() error { return do(ctx, item) })
	}
	return group.Wait()
}

type ensurer struct {
	c client.Client
	// existing is what was there when Ensure began; only read after load.
	existing map[key]client.Object
}

type key struct {
	kind            reflect.Type
	namespace, name string
}

func keyOf(obj client.Object) key {
	return key{reflect.TypeOf(obj), obj.GetNamespace(), obj.GetName()}
}

// load lists what is there of all kinds that matter.
func (e *ensurer) load(ctx context.Context) error {
	type query struct {
		list client.ObjectList
		o    []client.ListOption
	}
	named := func(namespace, name string) query {
		return query{&corev1.ConfigMapList{}, []client.ListOption{
			client.InNamespace(namespace), client.MatchingFields{"metadata.name": name},
		}}
	}
	queries := []query{
		named(metav1.NamespaceSystem, "extension-apiserver-authentication"),
		named(metav1.NamespacePublic, "cluster-info"),
		{list: &corev1.NamespaceList{}}, {list: &rbacv1.ClusterRoleList{}}, {list: &rbacv1.ClusterRoleBindingList{}},
		{&rbacv1.RoleList{}, []client.ListOption{client.InNamespace(metav1.NamespaceSystem)}},
		{&rbacv1.RoleList{}, []client.ListOption{client.InNamespace(metav1.NamespacePublic)}},
		{&rbacv1.RoleBindingList{}, []client.ListOption{client.InNamespace(metav1.NamespaceSystem)}},
		{&rbacv1.RoleBindingList{}, []client.ListOption{client.InNamespace(metav1.NamespacePublic)}},
		{list: &schedulingv1.PriorityClassList{}}, {list: &flowcontrolv1.FlowSchemaList{}},
		{list: &flowcontrolv1.PriorityLevelConfigurationList{}}, {list: &networkingv1.ServiceCIDRList{}},
	}
	var mu sync.Mutex
	return each(ctx, queries, func(ctx context.Context, q query) error {
		if err := e.c.List(ctx, q.list, q.o...); err != nil {
			return fmt.Errorf("listing %T: %w", q.list, err)
		}
		mu.Lock()
		defer mu.Unlock()
		return meta.EachListItem(q.list, func(o runtime.Object) error {
			obj := o.(client.Object)
			e.existing[keyOf(obj)] = obj
			return nil
		})
	})
}

func (e *ensurer) namespace(ctx context.Context, name string) error {
	return e.object(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
}

// object makes obj, or changes what is there of it. When somebody else was
// faster it looks again.
func (e *ensurer) object(ctx context.Context, obj client.Object) error {
	existing, ok := e.existing[keyOf(obj)]
	again := func(err error) bool {
		return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
	}
	owner := client.FieldOwner(managerOf(obj))
	first := true
	err := retry.OnError(retry.DefaultRetry, again, func() error {
		if !first {
			existing = obj.DeepCopyObject().(client.Object)
			err := e.c.Get(ctx, client.ObjectKeyFromObject(obj), existing)
			if ok = err == nil; client.IgnoreNotFound(err) != nil {
				return err
			}
		}
		first = false
		if !ok {
			return e.c.Create(ctx, obj.DeepCopyObject().(client.Object), owner)
		}
		changed, err := reconcile(existing, obj)
		switch {
		case err == nil && changed != nil:
			return e.c.Update(ctx, changed, owner)
		case errors.Is(err, errRecreate):
			if err := e.c.Delete(ctx, existing, client.Preconditions{UID: uidOf(existing)}); client.IgnoreNotFound(err) != nil {
				return err
			}
			return e.c.Create(ctx, obj.DeepCopyObject().(client.Object), owner)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("bootstrap: %T %s: %w", obj, client.ObjectKeyFromObject(obj), err)
	}
	return nil
}

// managerOf is who the fields of obj belong to: clients see who keeps it so.
func managerOf(obj client.Object) string {
	switch obj.(type) {
	case *flowcontrolv1.FlowSchema, *flowcontrolv1.PriorityLevelConfiguration:
		return "api-priority-and-fairness-config-producer-v1"
	}
	return "kube-apiserver"
}

// updateSpec returns existing with the spec that it should have, or nil if it
// has it. Fields that the wish leaves open may have any value.
func updateSpec[T client.Object, S any](existing, want T, spec func(T) *S, kept func(T) bool) client.Object {
	if kept(existing) || equality.Semantic.DeepDerivative(*spec(want), *spec(existing)) {
		return nil
	}
	changed := existing.DeepCopyObject().(T)
	*spec(changed) = *spec(want)
	return changed
}

// updateData returns existing with the entries that it should have, or nil.
func updateData(existing, want *corev1.ConfigMap) client.Object {
	changed := existing.DeepCopy()
	if changed.Data == nil {
		changed.Data = map[string]string{}
	}
	maps.Copy(changed.Data, want.Data)
	if maps.Equal(changed.Data, existing.Data) {
		return nil
	}
	return changed
}
