// Package kubeconfig calls webhooks that a kubeconfig file names: those that
// answer reviews of tokens and of access, and those that take audit events.
package kubeconfig

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Webhook is one webhook.
type Webhook struct {
	client  *rest.RESTClient
	backoff wait.Backoff
}

// New returns the webhook that the file names. It speaks the types of gv, which
// add knows.
func New(file string, gv schema.GroupVersion, add func(*runtime.Scheme) error, timeout time.Duration, backoff wait.Backoff) (*Webhook, error) {
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		return nil, fmt.Errorf("webhook %s: %w", file, err)
	}
	scheme := runtime.NewScheme()
	if err := add(scheme); err != nil {
		return nil, err
	}
	config.GroupVersion, config.Timeout, config.QPS = &gv, timeout, -1
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("webhook %s: %w", file, err)
	}
	return &Webhook{client, backoff}, nil
}

// Post sends in, and reads the answer into out unless that is nil. What may
// pass is tried again.
func (w *Webhook) Post(ctx context.Context, in, out runtime.Object) error {
	var last error
	err := wait.ExponentialBackoffWithContext(ctx, w.backoff, func(ctx context.Context) (bool, error) {
		result := w.client.Post().Body(in).Do(ctx)
		if last = result.Error(); last == nil && out != nil {
			last = result.Into(out)
		}
		if last != nil && !passes(last) {
			return false, last
		}
		return last == nil, nil
	})
	if err != nil && last != nil {
		return last
	}
	return err
}

// passes tells errors that another try may not meet.
func passes(err error) bool {
	if _, wait := apierrors.SuggestsClientDelay(err); wait {
		return true
	}
	return utilnet.IsConnectionReset(err) || utilnet.IsConnectionRefused(err) || utilnet.IsHTTP2ConnectionLost(err) || utilnet.IsTimeout(err) ||
		apierrors.IsInternalError(err) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err)
}
