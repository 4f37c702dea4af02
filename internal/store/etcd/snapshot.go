package etcd

import (
	"context"
	"io"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/internal/store"
)

// Snapshot implements store.Engine. History must not be compacted meanwhile,
// or it fails and can be tried again.
func (e *Engine) Snapshot(caller context.Context, w io.Writer) error {
	ctx, end, err := e.begin(caller)
	if err != nil {
		return err
	}
	defer end()
	revision, err := e.revision(ctx)
	if err != nil {
		return e.failure(caller, err)
	}
	out, err := store.NewSnapshotWriter(w, revision)
	if err != nil {
		return err
	}
	expiry := map[int64]time.Time{} // by lease
	_, err = e.scan(caller, "", store.RangeOptions{At: revision}, func(kv *mvccpb.KeyValue) error {
		expires, known := expiry[kv.Lease]
		if !known && kv.Lease != 0 {
			r, err := e.client.TimeToLive(ctx, clientv3.LeaseID(kv.Lease))
			if err != nil {
				return e.failure(caller, err)
			}
			// A lease that is over has a negative TTL: its keys are going.
			expires = e.o.Clock.Now().Add(time.Duration(r.TTL) * time.Second)
			expiry[kv.Lease] = expires
		}
		return out.Write(store.SnapshotKV{KV: e.kv(kv), Expires: expires})
	})
	if err != nil {
		return err
	}
	return out.Close()
}
