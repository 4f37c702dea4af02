package audit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/util/flowcontrol"

	"skiff/internal/apiserver/webhook/kubeconfig"
)

// WebhookOptions say where events are sent, and how many at once.
type WebhookOptions struct {
	// Kubeconfig names a file that says where the webhook is.
	Kubeconfig string
	// Blocking sends each event before its request goes on.
	Blocking bool
	// Buffer is how many events may wait, MaxSize how many are sent at once
	// and MaxWait how long the first of them waits; QPS and Burst bound the
	// calls. Zero values are upstream's defaults.
	Buffer, MaxSize int
	MaxWait         time.Duration
	QPS             float32
	Burst           int
	// InitialBackoff is the time before a failed call is tried again.
	InitialBackoff time.Duration
}

// Webhook is a Sink that sends events in batches. Nothing runs while there are
// none.
type Webhook struct {
	o      WebhookOptions
	hook   *kubeconfig.Webhook
	limit  flowcontrol.RateLimiter
	failed func(error)
	ctx    context.Context
	cancel context.CancelFunc
	full   chan struct{}
	sender sync.WaitGroup

	mu struct {
		sync.Mutex
		waiting []*auditv1.Event
		sending bool
	}
}

// NewWebhook returns a Webhook; failed is told about events that are lost.
func NewWebhook(o WebhookOptions, failed func(error)) (*Webhook, error) {
	setDefault(&o.Buffer, 10000)
	setDefault(&o.MaxSize, 400)
	setDefault(&o.MaxWait, 30*time.Second)
	setDefault(&o.QPS, 10)
	setDefault(&o.Burst, 15)
	setDefault(&o.InitialBackoff, 10*time.Second)
	backoff := wait.Backoff{Duration: o.InitialBackoff, Factor: 1.5, Jitter: 0.2, Steps: 5}
	hook, err := kubeconfig.New(o.Kubeconfig, auditv1.SchemeGroupVersion, auditv1.AddToScheme, 30*time.Second, backoff)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	w := &Webhook{o: o, hook: hook, failed: failed, limit: flowcontrol.NewTokenBucketRateLimiter(o.QPS, o.Burst), full: make(chan struct{}, 1)}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w, nil
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Write implements Sink.
func (w *Webhook) Write(events ...*auditv1.Event) error {
	if w.o.Blocking {
		return w.send(w.ctx, events)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.mu.waiting)+len(events) > w.o.Buffer {
		return errors.New("audit webhook queue is full")
	}
	w.mu.waiting = append(w.mu.waiting, events...)
	if len(w.mu.waiting) >= w.o.MaxSize {
		select {
		case w.full <- struct{}{}:
		default:
		}
	}
	if !w.mu.sending {
		w.mu.sending = true
		w.sender.Go(w.drain)
	}
	return nil
}

// drain sends what waits, until nothing does.
func (w *Webhook) drain() {
	for {
		timer := time.NewTimer(w.o.MaxWait)
		select {
		case <-w.full:
		case <-timer.C:
		case <-w.ctx.Done():
		}
		timer.Stop()
		for {
			w.mu.Lock()
			batch := w.mu.waiting[:min(len(w.mu.waiting), w.o.MaxSize)]
			w.mu.waiting = w.mu.waiting[len(batch):]
			left := len(w.mu.waiting)
			if len(batch) == 0 {
				w.mu.waiting, w.mu.sending = nil, false
				w.mu.Unlock()
				return
			}
			w.mu.Unlock()
			// What is under way at the end is still sent.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), 30*time.Second)
			if err := w.send(ctx, batch); err != nil && w.failed != nil {
				w.failed(fmt.Errorf("%d audit events are lost: %w", len(batch), err))
			}
			cancel()
			if left < w.o.MaxSize && w.ctx.Err() == nil {
				break
			}
		}
		w.mu.Lock()
		if len(w.mu.waiting) == 0 {
			w.mu.waiting, w.mu.sending = nil, false
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
	}
}

func (w *Webhook) send(ctx context.Context, events []*auditv1.Event) error {
	w.limit.Accept()
	list := &auditv1.EventList{}
	for _, e := range events {
		list.Items = append(list.Items, *e)
	}
	return w.hook.Post(ctx, list, nil)
}

// Close sends what waits and ends.
func (w *Webhook) Close() error {
	w.cancel()
	w.sender.Wait()
	return nil
}
