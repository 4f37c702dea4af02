package serviceaccount

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/authz/follow"
)

// Cached finds service accounts in a cache, and is told by its events when one
// comes into being that somebody waits for.
type Cached struct {
	reader, live client.Reader
	mu           struct {
		sync.Mutex
		// waiting holds, for each account that is waited for, the channel that
		// is closed when it comes.
		waiting map[client.ObjectKey]chan struct{}
	}
}

// NewCached returns accounts read from reader, and from live where that does
// not know an account yet. Call Follow before use.
func NewCached(reader, live client.Reader) *Cached {
	c := &Cached{reader: reader, live: live}
	c.mu.waiting = map[client.ObjectKey]chan struct{}{}
	return c
}

// Follow makes the waiters hear of new accounts.
func (c *Cached) Follow(ctx context.Context, informers follow.Informers) error {
	synced, err := follow.Objects(ctx, informers, &corev1.ServiceAccount{},
		func(_, account *corev1.ServiceAccount) { c.wake(client.ObjectKeyFromObject(account)) },
		func(*corev1.ServiceAccount) {})
	if err != nil {
		return err
	}
	return follow.Wait(ctx, synced)
}

func (c *Cached) wake(key client.ObjectKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch, ok := c.mu.waiting[key]; ok {
		close(ch)
		delete(c.mu.waiting, key)
	}
}

// wait returns the channel that is closed when the account comes.
func (c *Cached) wait(key client.ObjectKey) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch, ok := c.mu.waiting[key]
	if !ok {
		ch = make(chan struct{})
		c.mu.waiting[key] = ch
	}
	return ch
}

// Get implements Accounts.
func (c *Cached) Get(ctx context.Context, namespace, name string, patience time.Duration) (*corev1.ServiceAccount, error) {
	key := client.ObjectKey{Namespace: namespace, Name: name}
	account := &corev1.ServiceAccount{}
	if err := c.reader.Get(ctx, key, account, client.UnsafeDisableDeepCopy); !apierrors.IsNotFound(err) {
		return account, err
	}
	// Listen first and look then: an account that comes in between is seen.
	var came <-chan struct{}
	if patience > 0 {
		came = c.wait(key)
	}
	if err := c.live.Get(ctx, key, account); !apierrors.IsNotFound(err) || patience <= 0 {
		return account, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-came:
		return account, c.live.Get(ctx, key, account)
	case <-ctx.Done():
		return nil, apierrors.NewNotFound(corev1.Resource("serviceaccounts"), name)
	}
}
