package conformance

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func (s *server) coreEvent(name string) *corev1.Event {
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"of": s.ns}},
		Message:    "a test event", Reason: "Test", Type: "Normal", Count: 1, InvolvedObject: corev1.ObjectReference{Namespace: s.ns},
	}
}

func (s *server) newEvent(name string) *eventsv1.Event {
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"of": s.ns}}, Regarding: corev1.ObjectReference{Namespace: s.ns},
		EventTime: metav1.MicroTime{Time: time.Unix(1505828956, 0)}, Note: "This is " + name, Action: "Do", Reason: "Test", Type: "Normal",
		ReportingController: "test-controller", ReportingInstance: "test-node",
	}
}

// same compares two events but for what the server notes.
func same(a, b *eventsv1.Event) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	a.ResourceVersion, b.ResourceVersion, a.ManagedFields, b.ManagedFields = "", "", nil, nil
	a.TypeMeta, b.TypeMeta = metav1.TypeMeta{}, metav1.TypeMeta{}
	return equality.Semantic.DeepEqual(a, b)
}

var coreEvents = entries{
	"should manage the lifecycle of an event": func(s *server) {
		mine := client.MatchingLabels{"of": s.ns}
		e := s.coreEvent("test")
		s.create(e)
		var list corev1.EventList
		s.list(&list, mine)
		if len(list.Items) != 1 || list.Items[0].Namespace != s.ns {
			s.Errorf("events in all namespaces: %v", list.Items)
		}
		s.ok(s.api.Patch(s.ctx, e, client.RawPatch(types.StrategicMergePatchType, []byte(`{"message":"patched"}`))))
		s.ok(s.get(e, "test"))
		if e.Message != "patched" {
			s.Errorf("patched to %q", e.Message)
		}
		// An update without a revision replaces what is there.
		e.ResourceVersion = ""
		e.Series = &corev1.EventSeries{Count: 100, LastObservedTime: metav1.MicroTime{Time: time.Unix(1505828956, 0)}}
		s.ok(s.api.Update(s.ctx, e))
		s.ok(s.get(e, "test"))
		if e.Series == nil || e.Series.Count != 100 || !e.Series.LastObservedTime.Equal(&metav1.MicroTime{Time: time.Unix(1505828956, 0)}) {
			s.Errorf("updated: %+v", e.Series)
		}
		s.delete(e)
		s.list(&list, mine)
		if len(list.Items) != 0 {
			s.Errorf("events after the deletion: %v", list.Items)
		}
	},
	"should delete a collection of events": func(s *server) {
		mine := client.MatchingLabels{"of": s.ns}
		var list corev1.EventList
		for i := range 3 {
			s.create(s.coreEvent(fmt.Sprint("test-", i)))
		}
		s.list(&list, client.InNamespace(s.ns), mine)
		if len(list.Items) != 3 {
			s.Errorf("%d of 3", len(list.Items))
		}
		s.ok(s.api.DeleteAllOf(s.ctx, &corev1.Event{}, client.InNamespace(s.ns), mine))
		s.list(&list, client.InNamespace(s.ns), mine)
		if len(list.Items) != 0 {
			s.Errorf("%d are left", len(list.Items))
		}
	},
}

var eventsAPI = entries{
	"should ensure that an event can be fetched, patched, deleted, and listed": func(s *server) {
		mine := client.MatchingLabels{"of": s.ns}
		e := s.newEvent("test")
		s.create(e)
		names := func(options ...client.ListOption) (out []string) {
			s.Helper()
			var list eventsv1.EventList
			s.list(&list, options...)
			for _, e := range list.Items {
				out = append(out, e.Namespace+"/"+e.Name)
			}
			return out
		}
		only := []string{s.ns + "/test"}
		for name, options := range map[string][]client.ListOption{
			"all namespaces": {mine}, "its namespace": {client.InNamespace(s.ns), mine},
			"its controller": {client.InNamespace(s.ns), client.MatchingFields{"reportingController": "test-controller"}},
		} {
			if got := names(options...); !slices.Equal(got, only) {
				s.Errorf("events of %s: %v", name, got)
			}
		}
		var core corev1.EventList
		s.list(&core, client.InNamespace(s.ns), client.MatchingFields{"source": "test-controller"})
		if len(core.Items) != 1 || core.Items[0].Name != "test" || core.Items[0].ReportingController != "test-controller" {
			s.Errorf("events of the source: %v", core.Items)
		}
		before, after := &eventsv1.Event{}, &eventsv1.Event{}
		s.ok(s.get(before, "test"))
		// What happened is said once; that it goes on is what may be added.
		s.ok(s.api.Patch(s.ctx, before.DeepCopy(), client.RawPatch(types.StrategicMergePatchType, []byte(`{"series":{"count":2,"lastObservedTime":"2017-09-19T13:49:11.000000Z"}}`))))
		s.ok(s.get(after, "test"))
		before.Series = &eventsv1.EventSeries{Count: 2, LastObservedTime: metav1.MicroTime{Time: time.Unix(1505828951, 0)}}
		if !same(before, after) {
			s.Errorf("patched to %+v, not %+v", after, before)
		}
		if err := s.api.Patch(s.ctx, before.DeepCopy(), client.RawPatch(types.StrategicMergePatchType, []byte(`{"note":"patched"}`))); !apierrors.IsInvalid(err) {
			s.Errorf("another note: %v", err)
		}
		before.ResourceVersion = ""
		before.Series = &eventsv1.EventSeries{Count: 100, LastObservedTime: metav1.MicroTime{Time: time.Unix(1505828956, 0)}}
		s.ok(s.api.Update(s.ctx, before.DeepCopy()))
		s.ok(s.get(after, "test"))
		if !same(before, after) {
			s.Errorf("updated to %+v, not %+v", after, before)
		}
		s.delete(before)
		if err := s.get(after, "test"); !apierrors.IsNotFound(err) {
			s.Errorf("deleted: %v", err)
		}
		if got := names(mine); len(got) != 0 {
			s.Errorf("events after the deletion: %v", got)
		}
	},
	"should delete a collection of events": func(s *server) {
		mine := client.MatchingLabels{"of": s.ns}
		var list eventsv1.EventList
		for i := range 3 {
			s.create(s.newEvent(fmt.Sprint("test-", i)))
		}
		s.list(&list, client.InNamespace(s.ns), mine)
		if len(list.Items) != 3 {
			s.Errorf("%d of 3", len(list.Items))
		}
		s.ok(s.api.DeleteAllOf(s.ctx, &eventsv1.Event{}, client.InNamespace(s.ns), mine))
		s.list(&list, client.InNamespace(s.ns), mine)
		if len(list.Items) != 0 {
			s.Errorf("%d are left", len(list.Items))
		}
	},
}
