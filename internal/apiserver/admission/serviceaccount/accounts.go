package serviceaccount

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/authz/follow"
)

// Cached finds service accounts in a cache, and is told by its events when one
// comes into being that somebody waits for.
type Cached struct {
	reader, live client.Reader
	clock        clock.Clock
	mu           struct {
		sync.Mutex
		waiting map[client.ObjectKey]*arrival
	}
}

// arrival is an account that somebody waits for.
type arrival struct {
	// came is closed when the account comes into being.
	came    chan struct{}
	waiters int
}

// NewCached returns accounts read from reader, and from live where that does
// not know an account yet. Call Follow before use.
func NewCached(reader, live client.Reader, clk clock.Clock) *Cached {
	c := &Cached{reader: reader, live: live, clock: clk}
	c.mu.waiting = map[client.ObjectKey]*arrival{}
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
	if a, ok := c.mu.waiting[key]; ok {
		close(a.came)
		delete(c.mu.waiting, key)
	}
}

// await returns the channel that is closed when the account comes, and what to
// call when that is of no more interest.
func (c *Cached) await(key client.ObjectKey) (came <-chan struct{}, leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.mu.waiting[key]
	if !ok {
		a = &arrival{came: make(chan struct{})}
		c.mu.waiting[key] = a
	}
	a.waiters++
	return a.came, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if a.waiters--; a.waiters == 0 && c.mu.waiting[key] == a {
			delete(c.mu.waiting, key)
		}
	}
}

// Get implements Accounts.
func (c *Cached) Get(ctx context.Context, namespace, name string, patience time.Duration) (*corev1.ServiceAccount, error) {
	key := client.ObjectKey{Namespace: namespace, Name: name}
	account := &corev1.ServiceAccount{}
	if err := c.reader.Get(ctx, key, account, client.UnsafeDisableDeepCopy); !apierrors.IsNotFound(err) {
		return account, err
	}
	// Listen first and look then: an account that comes in between is seen.
	came, leave := c.await(key)
	defer leave()
	if err := c.live.Get(ctx, key, account); !apierrors.IsNotFound(err) || patience <= 0 {
		return account, err
	}
	timer := c.clock.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-came:
		return account, c.live.Get(ctx, key, account)
	case <-timer.C():
		return nil, apierrors.NewNotFound(corev1.Resource("serviceaccounts"), name)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
