package core

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
)

// eventSeconds is how long events are kept.
const eventSeconds = 3600

// events are served in two groups: core/v1, the hub, as they always were, and
// events.k8s.io/v1 with other names for some fields and stricter rules.
func events() *apis.Resource {
	r := apis.Of[*corev1.Event]{
		MetadataOnUpdate: []apis.MetadataCheck{},
		Names:            apis.Names{Resource: "events", Singular: "event", Kind: "Event", ShortNames: []string{"ev"}, Namespaced: true},
		Version:          "v1",
		New:              func() *corev1.Event { return &corev1.Event{} },
		NewList:          func() runtime.Object { return &corev1.EventList{} },
		Other: []apis.Version{{
			Group: "events.k8s.io", Version: "v1", Kind: "Event",
			New:     func() apis.Object { return &eventsv1.Event{} },
			NewList: func() runtime.Object { return &eventsv1.EventList{} },
			ToHub:   func(obj apis.Object) (apis.Object, error) { return eventToCore(obj.(*eventsv1.Event)), nil },
			FromHub: func(hub apis.Object) (apis.Object, error) { return eventFromCore(hub.(*corev1.Event)), nil },
			Validate: func(_ context.Context, hub, old apis.Object) field.ErrorList {
				return append(validateEvent(hub.(*corev1.Event), "reportingController"), validateNewEvent(hub, old)...)
			},
			FieldNames: newEventFieldNames(),
		}},
		AllowCreateOnUpdate: true,
		ValidateName:        path.ValidatePathSegmentName,
		TTL:                 func(*corev1.Event) int64 { return eventSeconds },
		Columns: []metav1.TableColumnDefinition{
			columns.String("Last Seen", corev1.Event{}.SwaggerDoc()["lastTimestamp"]),
			columns.String("Type", corev1.Event{}.SwaggerDoc()["type"]),
			columns.String("Reason", corev1.Event{}.SwaggerDoc()["reason"]),
			columns.String("Object", corev1.Event{}.SwaggerDoc()["involvedObject"]),
			columns.Wide(columns.String("Subobject", corev1.ObjectReference{}.SwaggerDoc()["fieldPath"])),
			columns.Wide(columns.String("Source", corev1.Event{}.SwaggerDoc()["source"])),
			columns.String("Message", corev1.Event{}.SwaggerDoc()["message"]),
			columns.Wide(columns.String("First Seen", corev1.Event{}.SwaggerDoc()["firstTimestamp"])),
			columns.Wide(columns.String("Count", corev1.Event{}.SwaggerDoc()["count"])),
			columns.Wide(columns.Name()),
		},
		Cells:  eventCells,
		Fields: eventFields(),
	}.Resource()
	r.Hub.Validate = func(_ context.Context, e, _ apis.Object) field.ErrorList {
		return validateEvent(e.(*corev1.Event), "reportingComponent")
	}
	return r
}

func eventFields() map[string]func(*corev1.Event) string {
	fields := map[string]func(*corev1.Event) string{
		"reason":             func(e *corev1.Event) string { return e.Reason },
		"reportingComponent": func(e *corev1.Event) string { return e.ReportingController },
		"type":               func(e *corev1.Event) string { return e.Type },
		"source": func(e *corev1.Event) string {
			return firstOf(e.Source.Component, e.ReportingController)
		},
	}
	for name, f := range map[string]func(*corev1.ObjectReference) string{
		"kind":            func(o *corev1.ObjectReference) string { return o.Kind },
		"namespace":       func(o *corev1.ObjectReference) string { return o.Namespace },
		"name":            func(o *corev1.ObjectReference) string { return o.Name },
		"uid":             func(o *corev1.ObjectReference) string { return string(o.UID) },
		"apiVersion":      func(o *corev1.ObjectReference) string { return o.APIVersion },
		"resourceVersion": func(o *corev1.ObjectReference) string { return o.ResourceVersion },
		"fieldPath":       func(o *corev1.ObjectReference) string { return o.FieldPath },
	} {
		fields["involvedObject."+name] = func(e *corev1.Event) string { return f(&e.InvolvedObject) }
	}
	return fields
}

// newEventFieldNames are the names in events.k8s.io, which does without source.
func newEventFieldNames() map[string]string {
	names := map[string]string{"reason": "reason", "reportingController": "reportingComponent", "type": "type"}
	for field := range eventFields() {
		if name, ok := strings.CutPrefix(field, "involvedObject."); ok {
			names["regarding."+name] = field
		}
	}
	return names
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func eventCells(e *corev1.Event) []any {
	first := columns.Age(e.FirstTimestamp)
	if e.FirstTimestamp.IsZero() {
		first = columns.MicroAge(e.EventTime)
	}
	last := first
	if !e.LastTimestamp.IsZero() {
		last = columns.Age(e.LastTimestamp)
	}
	count := e.Count
	if e.Series != nil {
		last, count = columns.MicroAge(e.Series.LastObservedTime), e.Series.Count
	} else if count == 0 {
		// Events of the new kind that have not been repeated count nothing.
		count = 1
	}
	target := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		target += "/" + e.InvolvedObject.Name
	}
	source := firstOf(e.Source.Component, e.ReportingController)
	if host := firstOf(e.Source.Host, e.ReportingInstance); host != "" {
		source += ", " + host
	}
	return []any{last, e.Type, e.Reason, target, e.InvolvedObject.FieldPath, source,
		strings.TrimSpace(e.Message), first, int64(count), e.Name}
}

func eventToCore(in *eventsv1.Event) *corev1.Event {
	in = in.DeepCopy()
	out := &corev1.Event{
		TypeMeta:            metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:          in.ObjectMeta,
		InvolvedObject:      in.Regarding,
		Reason:              in.Reason,
		Message:             in.Note,
		Source:              in.DeprecatedSource,
		FirstTimestamp:      in.DeprecatedFirstTimestamp,
		LastTimestamp:       in.DeprecatedLastTimestamp,
		Count:               in.DeprecatedCount,
		Type:                in.Type,
		EventTime:           in.EventTime,
		Action:              in.Action,
		Related:             in.Related,
		ReportingController: in.ReportingController,
		ReportingInstance:   in.ReportingInstance,
	}
	if in.Series != nil {
		out.Series = &corev1.EventSeries{Count: in.Series.Count, LastObservedTime: in.Series.LastObservedTime}
	}
	return out
}

func eventFromCore(in *corev1.Event) *eventsv1.Event {
	in = in.DeepCopy()
	out := &eventsv1.Event{
		TypeMeta:                 metav1.TypeMeta{APIVersion: "events.k8s.io/v1", Kind: "Event"},
		ObjectMeta:               in.ObjectMeta,
		EventTime:                in.EventTime,
		ReportingController:      in.ReportingController,
		ReportingInstance:        in.ReportingInstance,
		Action:                   in.Action,
		Reason:                   in.Reason,
		Regarding:                in.InvolvedObject,
		Related:                  in.Related,
		Note:                     in.Message,
		Type:                     in.Type,
		DeprecatedSource:         in.Source,
		DeprecatedFirstTimestamp: in.FirstTimestamp,
		DeprecatedLastTimestamp:  in.LastTimestamp,
		DeprecatedCount:          in.Count,
	}
	if in.Series != nil {
		out.Series = &eventsv1.EventSeries{Count: in.Series.Count, LastObservedTime: in.Series.LastObservedTime}
	}
	return out
}

// validateEvent checks what holds in both groups. An event with eventTime is
// one of the new kind and must say who reports it, in a field whose name
// depends on the group.
func validateEvent(e *corev1.Event, reporter string) field.ErrorList {
	var p problems
	namespace := field.NewPath("involvedObject", "namespace")
	const mismatch = "does not match event.namespace"
	about := e.InvolvedObject.Namespace
	if e.EventTime.IsZero() {
		// Events about cluster-scoped objects are in no namespace or in default.
		if about == "" && e.Namespace != "" && e.Namespace != metav1.NamespaceDefault || about != "" && about != e.Namespace {
			p.invalid(namespace, about, mismatch)
		}
	} else {
		if about == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
			p.invalid(namespace, about, mismatch)
		}
		if e.ReportingController == "" {
			p.required(field.NewPath(reporter))
		}
		p.qualifiedName(field.NewPath(reporter), e.ReportingController)
		p.shortText(field.NewPath("reportingInstance"), e.ReportingInstance)
		p.shortText(field.NewPath("action"), e.Action)
		p.shortText(field.NewPath("reason"), e.Reason)
		if len(e.Message) > 1024 {
			p.invalid(field.NewPath("message"), "", "can have at most 1024 characters")
		}
	}
	p.invalids(field.NewPath("namespace"), e.Namespace, validation.IsDNS1123Subdomain(e.Namespace))
	return p.list()
}

func (p *problems) shortText(at *field.Path, value string) {
	if value == "" {
		p.required(at)
	}
	if len(value) > 128 {
		p.invalid(at, "", "can have at most 128 characters")
	}
}

// validateNewEvent checks what events.k8s.io/v1 asks for in addition: fields
// of the old kind must not be used, and nothing but the series may change.
func validateNewEvent(hub, before apis.Object) field.ErrorList {
	var p problems
	e := hub.(*corev1.Event)
	old, _ := before.(*corev1.Event)
	if old == nil {
		if e.Name != "" {
			p.dnsSubdomain(field.NewPath("metadata", "name"), e.Name)
		}
		p.eventSeries(e.Series)
		if e.EventTime.IsZero() {
			p.required(field.NewPath("eventTime"))
		}
		if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
			p.invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type))
		}
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"firstTimestamp", !e.FirstTimestamp.IsZero()},
			{"lastTimestamp", !e.LastTimestamp.IsZero()},
			{"count", e.Count != 0},
			{"source", e.Source.Component != "" || e.Source.Host != ""},
		} {
			if f.set {
				p.invalid(field.NewPath(f.name), "", "needs to be unset")
			}
		}
		return p.list()
	}
	p.add(checks.MetadataUpdate(e, old))
	if (e.Series == nil) != (old.Series == nil) || e.Series != nil && *e.Series != *old.Series {
		p.eventSeries(e.Series)
	}
	for _, f := range []struct {
		name     string
		now, old any
	}{
		{"involvedObject", e.InvolvedObject, old.InvolvedObject},
		{"reason", e.Reason, old.Reason},
		{"message", e.Message, old.Message},
		{"source", e.Source, old.Source},
		{"firstTimestamp", e.FirstTimestamp, old.FirstTimestamp},
		{"lastTimestamp", e.LastTimestamp, old.LastTimestamp},
		{"count", e.Count, old.Count},
		{"reason", e.Reason, old.Reason},
		{"type", e.Type, old.Type},
		// Some clients write nanoseconds, which others lose.
		{"eventTime", metav1.NewMicroTime(e.EventTime.Truncate(time.Microsecond)), metav1.NewMicroTime(old.EventTime.Truncate(time.Microsecond))},
		{"action", e.Action, old.Action},
		{"related", e.Related, old.Related},
		{"reportingController", e.ReportingController, old.ReportingController},
		{"reportingInstance", e.ReportingInstance, old.ReportingInstance},
	} {
		p.immutable(field.NewPath(f.name), f.now, f.old)
	}
	return p.list()
}

func (p *problems) eventSeries(s *corev1.EventSeries) {
	if s == nil {
		return
	}
	if s.Count < 2 {
		p.invalid(field.NewPath("series.count"), "", "should be at least 2")
	}
	if s.LastObservedTime.IsZero() {
		p.required(field.NewPath("series.lastObservedTime"))
	}
}
