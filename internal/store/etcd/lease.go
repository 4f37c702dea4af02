package etcd

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/utils/clock"
)

const (
	// A lease is shared by keys whose TTLs end within this part of the TTL, or
	// this time if that is shorter: keys may live that much longer than asked.
	shareFraction = 20 // a twentieth
	shareAtMost   = time.Minute
	// shareKeys bounds how many keys one expiry removes at once.
	shareKeys = 1000
)

// leases hands out leases for TTLs. Each costs the cluster memory and, with
// many, time at every election, so near TTLs share one.
type leases struct {
	client *clientv3.Client
	clock  clock.Clock

	mu   sync.Mutex
	last map[int64]*lease
}

// lease is the newest for a TTL.
type lease struct {
	id clientv3.LeaseID
	// until is the last moment at which it covers a key's whole TTL.
	until time.Time
	keys  int
}

func (l *leases) init(client *clientv3.Client, c clock.Clock) {
	l.client, l.clock, l.last = client, c, map[int64]*lease{}
}

// get returns a lease for a TTL in seconds, none for 0. Calls wait for each
// other, so that a burst of writes makes one lease.
func (l *leases) get(ctx context.Context, ttl int64) (clientv3.LeaseID, error) {
	if ttl == 0 {
		return clientv3.NoLease, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	if last := l.last[ttl]; last != nil && last.keys < shareKeys && now.Before(last.until) {
		last.keys++
		return last.id, nil
	}
	for other, lease := range l.last { // forget those that are over
		if now.After(lease.until) {
			delete(l.last, other)
		}
	}
	extra := min(ttl/shareFraction, int64(shareAtMost/time.Second))
	granted, err := l.client.Grant(ctx, ttl+extra)
	if err != nil {
		return 0, err
	}
	if extra > 0 {
		l.last[ttl] = &lease{id: granted.ID, until: now.Add(time.Duration(extra) * time.Second), keys: 1}
	}
	return granted.ID, nil
}
