package client

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Recorders returns a Set.Recorder that writes through c until ctx ends. Equal
// events are counted rather than repeated, and floods are dropped, by
// client-go's correlator.
func Recorders(ctx context.Context, c client.Client) func(component string) record.EventRecorder {
	start := sync.OnceValue(func() record.EventBroadcaster {
		b := record.NewBroadcaster(record.WithContext(ctx))
		b.StartRecordingToSink(sink{ctx, c})
		return b
	})
	return func(component string) record.EventRecorder {
		return lazyRecorder{func() record.EventRecorder {
			return start().NewRecorder(c.Scheme(), corev1.EventSource{Component: component})
		}}
	}
}

// lazyRecorder starts the machinery with the first event.
type lazyRecorder struct{ make func() record.EventRecorder }

func (l lazyRecorder) Event(obj runtime.Object, kind, reason, message string) {
	l.make().Event(obj, kind, reason, message)
}

func (l lazyRecorder) Eventf(obj runtime.Object, kind, reason, format string, args ...any) {
	l.make().Eventf(obj, kind, reason, format, args...)
}

func (l lazyRecorder) AnnotatedEventf(obj runtime.Object, annotations map[string]string, kind, reason, format string, args ...any) {
	l.make().AnnotatedEventf(obj, annotations, kind, reason, format, args...)
}

// sink writes events with a client.
type sink struct {
	ctx context.Context
	c   client.Client
}

func (s sink) Create(e *corev1.Event) (*corev1.Event, error) {
	e = e.DeepCopy()
	if e.Namespace == "" {
		e.Namespace = metav1.NamespaceDefault
	}
	return e, s.c.Create(s.ctx, e)
}

func (s sink) Update(e *corev1.Event) (*corev1.Event, error) {
	e = e.DeepCopy()
	return e, s.c.Update(s.ctx, e)
}

func (s sink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	e = e.DeepCopy()
	return e, s.c.Patch(s.ctx, e, client.RawPatch(types.StrategicMergePatchType, data))
}
