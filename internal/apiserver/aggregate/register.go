package aggregate

import (
	"context"
	"maps"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"skiff/internal/apiserver/verbs"
	"skiff/internal/store/cache"
)

// managed labels the APIServices that the server keeps: those of its own types
// are made when it starts, those of custom resources come and go with them.
const (
	managed        = "kube-aggregator.kubernetes.io/automanaged"
	managedOnStart = "onstart"
	managedAlways  = "true"
)

// register keeps an APIService for each group version that this server
// answers itself.
func (a *Aggregator) register(ctx context.Context) {
	for ctx.Err() == nil {
		_, changed := a.Verbs.Generation()
		a.registerOnce(ctx)
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

func (a *Aggregator) registerOnce(ctx context.Context) {
	wanted := map[string]*apiregistrationv1.APIService{}
	for _, r := range a.Verbs.Resources() {
		for v := range r.Served() {
			if s := localService(v.GroupVersion(), r.Custom != nil); s != nil {
				wanted[s.Name] = s
			}
		}
	}
	a.resource.Collection.Snapshot().Ascend(a.resource.Prefix+"/", "", func(e *cache.Entry) bool {
		obj, err := e.Object()
		if err != nil {
			return true
		}
		have := obj.(*apiregistrationv1.APIService)
		want := wanted[have.Name]
		delete(wanted, have.Name)
		req := &verbs.Request{Version: a.resource.Versions[0], Name: have.Name}
		switch {
		case have.Spec.Service != nil:
			// Somebody decided that another server answers.
		case want == nil && have.Labels[managed] == managedAlways:
			_, _, err = a.Verbs.Delete(ctx, req, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &have.UID}})
		case want != nil && have.Labels[managed] != "" && (have.Spec.GroupPriorityMinimum != want.Spec.GroupPriorityMinimum || have.Spec.VersionPriority != want.Spec.VersionPriority):
			next := have.DeepCopy()
			next.Spec = want.Spec
			_, _, err = a.Verbs.Update(ctx, req, next, &metav1.UpdateOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
			a.Log.Warn("an APIService could not be kept", "name", have.Name, "error", err)
		}
		return ctx.Err() == nil
	})
	for s := range maps.Values(wanted) {
		req := &verbs.Request{Version: a.resource.Versions[0], Name: s.Name}
		if _, err := a.Verbs.Create(ctx, req, s, &metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
			a.Log.Warn("an APIService could not be made", "name", s.Name, "error", err)
		}
	}
}

// localService is the APIService of a group version that this server answers,
// nil for those that are not registered.
func localService(gv schema.GroupVersion, isCustom bool) *apiregistrationv1.APIService {
	p, ok := PriorityOf(gv, isCustom)
	if !ok {
		return nil
	}
	label := managedOnStart
	if isCustom {
		label = managedAlways
	}
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group, Labels: map[string]string{managed: label}},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: p.Group, VersionPriority: p.Version,
		},
	}
}
