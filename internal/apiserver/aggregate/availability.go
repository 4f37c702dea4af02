package aggregate

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"skiff/internal/apiserver/verbs"
	"skiff/internal/store/cache"
)

// How long after one look at a server the next one comes, when nothing happens
// that calls for it: a server that fails is tried again soon.
const (
	lookInterval = 30 * time.Second
	firstRetry   = 500 * time.Millisecond
)

// attempts is how often a look tries to get an answer from the server, which
// may go to one of several endpoints each time.
const attempts = 5

// watchOver looks at the server until ctx ends.
func (e *Extension) watchOver(ctx context.Context) {
	wake := make(chan struct{}, 1)
	s := e.service.Spec.Service
	services, slices := e.aggregator.Verbs.Lookup(schema.GroupResource{Resource: "services"}), e.aggregator.Verbs.Lookup(endpointSlices)
	go signal(ctx, services.Collection, cache.Scope{Key: services.Collection.Key(s.Namespace, s.Name)}, wake)
	go signal(ctx, slices.Collection, cache.Scope{Namespace: s.Namespace}, wake)
	retry := firstRetry
	for {
		wait := lookInterval
		if !e.look(ctx) {
			wait = retry
			retry = min(2*retry, lookInterval)
		} else {
			retry = firstRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
			retry = firstRetry
		case <-e.aggregator.Clock.After(wait):
		}
	}
}

// signal wakes somebody up whenever something in the scope changes.
func signal(ctx context.Context, c *cache.Collection, scope cache.Scope, wake chan<- struct{}) {
	for ctx.Err() == nil {
		_, w := c.SnapshotAndWatch(scope)
		for {
			_, err := w.Next(ctx)
			select {
			case wake <- struct{}{}:
			default:
			}
			if err != nil {
				break
			}
		}
		w.Stop()
	}
}

// look finds out whether the server is there, and writes down what it found.
func (e *Extension) look(ctx context.Context) (available bool) {
	reason, message := e.reachable(ctx)
	var document []byte
	if reason == "" {
		path := "/apis/" + e.GroupVersion.String()
		if e.Group == "" {
			path = "/api/" + e.Version
		}
		var err error
		for range attempts {
			if document, err = e.Get(ctx, path, "application/json"); err == nil || ctx.Err() != nil {
				break
			}
		}
		reason, message = "Passed", "all checks passed"
		if err != nil {
			reason, message = "FailedDiscoveryCheck", err.Error()
		}
	}
	if ctx.Err() != nil {
		return false
	}
	available = reason == "Passed"
	e.learn(available, document)
	if err := e.note(ctx, available, reason, message); err != nil && ctx.Err() == nil {
		e.aggregator.Log.Warn("the status of an APIService cannot be written", "name", e.service.Name, "error", err)
	}
	return available
}

var endpointSlices = schema.GroupResource{Group: discoveryv1.GroupName, Resource: "endpointslices"}

// reachable returns why there is no sense in asking the server; an empty
// reason if there is.
func (e *Extension) reachable(ctx context.Context) (reason, message string) {
	s := e.service.Spec.Service
	name := fmt.Sprintf("service/%s in %q", s.Name, s.Namespace)
	server := e.aggregator.Verbs
	services := server.Lookup(schema.GroupResource{Resource: "services"})
	entry, err := server.Get(ctx, &verbs.Request{Version: services.Versions[0], Namespace: s.Namespace, Name: s.Name}, &metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		return "ServiceNotFound", name + " is not present"
	}
	if err != nil {
		return "ServiceAccessError", fmt.Sprintf("%s cannot be checked due to: %v", name, err)
	}
	obj, err := entry.Object()
	if err != nil {
		return "ServiceAccessError", fmt.Sprintf("%s cannot be checked due to: %v", name, err)
	}
	service := obj.(*corev1.Service)
	if service.Spec.Type != corev1.ServiceTypeClusterIP {
		return "", ""
	}
	i := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return strconv.Itoa(int(p.Port)) == e.port() })
	if i < 0 {
		return "ServicePortError", fmt.Sprintf("%s is not listening on port %s", name, e.port())
	}
	list, err := server.List(ctx, &verbs.Request{Version: server.Lookup(endpointSlices).Versions[0], Namespace: s.Namespace}, &verbs.ListOptions{
		Labels: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: s.Name}), ResourceVersion: "0",
	})
	if err != nil {
		return "EndpointsAccessError", fmt.Sprintf("%s cannot be checked due to: %v", name, err)
	}
	if len(list.Entries) == 0 {
		return "EndpointsNotFound", "cannot find endpointslices for " + name
	}
	port := service.Spec.Ports[i].Name
	for _, entry := range list.Entries {
		if obj, err := entry.Object(); err == nil && serves(obj.(*discoveryv1.EndpointSlice), port) {
			return "", ""
		}
	}
	return "MissingEndpoints", fmt.Sprintf("endpointslices for %s have no addresses with port name %q", name, port)
}

func serves(s *discoveryv1.EndpointSlice, port string) bool {
	return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool {
		return e.Conditions.Ready == nil || *e.Conditions.Ready
	}) && slices.ContainsFunc(s.Ports, func(p discoveryv1.EndpointPort) bool {
		return p.Port != nil && p.Name != nil && *p.Name == port
	})
}

// note writes the condition Available, unless it says so already.
func (e *Extension) note(ctx context.Context, available bool, reason, message string) error {
	r := e.aggregator.resource
	for {
		entry, err := e.aggregator.Verbs.Get(ctx, &verbs.Request{Version: r.Versions[0], Name: e.service.Name}, &metav1.GetOptions{ResourceVersion: "0"})
		if err != nil {
			return ignoreGone(err)
		}
		obj, err := entry.Object()
		if err != nil {
			return err
		}
		old := obj.(*apiregistrationv1.APIService)
		if old.UID != e.service.UID {
			return nil
		}
		next := old.DeepCopy()
		status := apiregistrationv1.ConditionFalse
		switch {
		case available:
			status = apiregistrationv1.ConditionTrue
		case reason == "ServiceAccessError" || reason == "EndpointsAccessError":
			status = apiregistrationv1.ConditionUnknown
		}
		setCondition(next, apiregistrationv1.APIServiceCondition{
			Type: apiregistrationv1.Available, Status: status, Reason: reason, Message: message,
			LastTransitionTime: metav1.NewTime(e.aggregator.Clock.Now()),
		})
		if equality.Semantic.DeepEqual(old.Status, next.Status) {
			return nil
		}
		_, _, err = e.aggregator.Verbs.Update(ctx, &verbs.Request{Version: r.Versions[0], Name: next.Name, Subresource: "status"}, next, &metav1.UpdateOptions{})
		if !apierrors.IsConflict(err) {
			return ignoreGone(err)
		}
	}
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func setCondition(s *apiregistrationv1.APIService, c apiregistrationv1.APIServiceCondition) {
	for i := range s.Status.Conditions {
		old := &s.Status.Conditions[i]
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		*old = c
		return
	}
	s.Status.Conditions = append(s.Status.Conditions, c)
}
