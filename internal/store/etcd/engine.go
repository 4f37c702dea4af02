// Package etcd is the storage engine over an etcd cluster, be it outside or a
// member in this process. Several servers can use it at once.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"skiff/internal/store"
)

// Options say which cluster to use, and how.
type Options struct {
	// Endpoints are URLs such as https://10.0.0.1:2379.
	Endpoints []string
	// TLS is used for https endpoints.
	TLS *tls.Config
	// Username and Password are for clusters with etcd's own authentication.
	Username, Password string
	// Prefix is put before every key and taken off again. It is empty by
	// default: Kubernetes' keys begin with /registry of themselves.
	Prefix string
	// DialTimeout is how long Open waits for the first answer; the default is
	// 20 seconds.
	DialTimeout time.Duration
	// Log defaults to none.
	Log *slog.Logger
	// Clock is what leases are shared by; the default is the machine's.
	Clock clock.Clock
}

func (o Options) withDefaults() Options {
	if o.DialTimeout == 0 {
		o.DialTimeout = 20 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return o
}

// pageSize is how many keys one request asks for.
const pageSize = 1000

// Engine is a store.Engine over an etcd cluster.
type Engine struct {
	o        Options
	client   *clientv3.Client
	leases   leases
	progress progress

	// stop ends everything under way; loops counts what must end before Close
	// returns.
	stop      context.Context
	shutdown  context.CancelFunc
	closeOnce sync.Once
	closeErr  error
	mu        sync.Mutex
	closed    bool
	loops     sync.WaitGroup
}

var _ store.Engine = (*Engine)(nil)

// Open connects to a cluster and checks that it answers.
func Open(ctx context.Context, o Options) (*Engine, error) {
	o = o.withDefaults()
	if len(o.Endpoints) == 0 {
		return nil, errors.New("etcd: no endpoints given")
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            o.Endpoints,
		TLS:                  o.TLS,
		Username:             o.Username,
		Password:             o.Password,
		DialTimeout:          o.DialTimeout,
		DialKeepAliveTime:    30 * time.Second,
		DialKeepAliveTimeout: 10 * time.Second,
		Logger:               zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("etcd at %v: %w", o.Endpoints, err)
	}
	e := New(client, o)
	first, cancel := context.WithTimeout(ctx, o.DialTimeout)
	defer cancel()
	if _, err := e.Revision(first); err != nil {
		err = fmt.Errorf("etcd at %v does not answer: %w; see that it runs and that the certificates fit", o.Endpoints, err)
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// New makes an engine of a client, which it closes when it is closed itself.
// Only Prefix, Log and Clock of the options are used.
func New(client *clientv3.Client, o Options) *Engine {
	e := &Engine{o: o.withDefaults(), client: client}
	e.stop, e.shutdown = context.WithCancel(context.Background())
	e.leases.init(client, e.o.Clock)
	e.progress.init()
	e.loops.Go(e.requestProgress)
	return e
}

// Close ends all calls with store.ErrClosed.
func (e *Engine) Close() error {
	e.closeOnce.Do(func() {
		e.mu.Lock()
		e.closed = true
		e.mu.Unlock()
		e.shutdown()
		e.loops.Wait()
		e.closeErr = e.client.Close()
		if errors.Is(e.closeErr, context.Canceled) {
			e.closeErr = nil
		}
	})
	return e.closeErr
}

// begin derives a context that ends with the engine. The caller must call end.
func (e *Engine) begin(ctx context.Context) (_ context.Context, end func(), _ error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, nil, store.ErrClosed
	}
	e.loops.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(e.stop, cancel)
	return ctx, func() {
		unhook()
		cancel()
		e.loops.Done()
	}, nil
}

// failure makes an error of etcd's one of the contract's. ctx is the caller's.
func (e *Engine) failure(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case e.stop.Err() != nil:
		return store.ErrClosed
	}
	return fmt.Errorf("etcd: %w", err)
}

// Revision asks the cluster's quorum.
func (e *Engine) Revision(caller context.Context) (int64, error) {
	ctx, end, err := e.begin(caller)
	if err != nil {
		return 0, err
	}
	defer end()
	revision, err := e.revision(ctx)
	if err != nil {
		return 0, e.failure(caller, err)
	}
	e.progress.want(revision)
	return revision, nil
}

func (e *Engine) revision(ctx context.Context) (int64, error) {
	// Any read tells; this one is of a key that is never there.
	r, err := e.client.Get(ctx, e.o.Prefix+"\x00", clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return r.Header.Revision, nil
}

func (e *Engine) kv(kv *mvccpb.KeyValue) store.KV {
	return store.KV{
		Key:            string(kv.Key[len(e.o.Prefix):]),
		Value:          kv.Value,
		CreateRevision: kv.CreateRevision,
		ModRevision:    kv.ModRevision,
	}
}

// Size implements store.Sized: what the first member's database takes.
func (e *Engine) Size(caller context.Context) (int64, error) {
	ctx, end, err := e.begin(caller)
	if err != nil {
		return 0, err
	}
	defer end()
	status, err := e.client.Status(ctx, e.o.Endpoints[0])
	if err != nil {
		return 0, e.failure(caller, err)
	}
	return status.DbSize, nil
}

// Get implements store.Engine.
func (e *Engine) Get(caller context.Context, key string) (store.KV, error) {
	if err := store.CheckKey(key); err != nil {
		return store.KV{}, err
	}
	ctx, end, err := e.begin(caller)
	if err != nil {
		return store.KV{}, err
	}
	defer end()
	r, err := e.client.Get(ctx, e.o.Prefix+key)
	if err != nil {
		return store.KV{}, e.failure(caller, err)
	}
	if len(r.Kvs) == 0 {
		return store.KV{}, store.ErrNotFound
	}
	return e.kv(r.Kvs[0]), nil
}

// Range implements store.Engine. It reads page after page at one revision; if
// that is compacted meanwhile, it ends with *store.CompactedError.
func (e *Engine) Range(caller context.Context, prefix string, o store.RangeOptions, fn func(store.KV) error) (int64, error) {
	return e.scan(caller, prefix, o, func(kv *mvccpb.KeyValue) error { return fn(e.kv(kv)) })
}

func (e *Engine) scan(caller context.Context, prefix string, o store.RangeOptions, fn func(*mvccpb.KeyValue) error) (int64, error) {
	ctx, end, err := e.begin(caller)
	if err != nil {
		return 0, err
	}
	defer end()
	from := e.o.Prefix + max(prefix, o.From)
	upper := clientv3.GetPrefixRangeEnd(e.o.Prefix + prefix)
	if from == "" {
		from = "\x00"
	}
	if upper != "\x00" { // which stands for the end of all keys
		from = min(from, upper)
	}
	at, left := o.At, o.Limit
	for {
		page := pageSize
		if o.Limit > 0 {
			page = min(page, left)
		}
		r, err := e.client.Get(ctx, from, clientv3.WithRange(upper), clientv3.WithRev(at), clientv3.WithLimit(int64(page)))
		if err != nil {
			return 0, e.readFailure(caller, ctx, at, err)
		}
		if at == 0 {
			at = r.Header.Revision
		}
		for _, kv := range r.Kvs {
			if err := fn(kv); err != nil {
				return at, err
			}
		}
		left -= len(r.Kvs)
		if !r.More || o.Limit > 0 && left == 0 {
			return at, nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

// readFailure adds to an error about a revision which ones there are.
func (e *Engine) readFailure(caller, ctx context.Context, at int64, err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		oldest, err := e.oldest(ctx)
		if err != nil {
			return e.failure(caller, err)
		}
		return &store.CompactedError{Requested: at, Oldest: oldest}
	case errors.Is(err, rpctypes.ErrFutureRev):
		newest, err := e.revision(ctx)
		if err != nil {
			return e.failure(caller, err)
		}
		return &store.FutureRevisionError{Requested: at, Newest: newest}
	}
	return e.failure(caller, err)
}

// oldest finds the oldest revision that is kept. Only a watch tells it.
func (e *Engine) oldest(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for r := range e.client.Watch(ctx, e.o.Prefix+"\x00", clientv3.WithRev(1), clientv3.WithCreatedNotify()) {
		if r.CompactRevision != 0 {
			return r.CompactRevision, nil
		}
		if err := r.Err(); err != nil {
			return 0, err
		}
	}
	return 0, ctx.Err()
}

// Txn implements store.Engine. If ctx ends first, the outcome is unknown.
func (e *Engine) Txn(caller context.Context, ops ...store.Op) (int64, error) {
	if err := store.CheckOps(ops); err != nil {
		return 0, err
	}
	ctx, end, err := e.begin(caller)
	if err != nil {
		return 0, err
	}
	defer end()
	var conditions []clientv3.Cmp
	var then, otherwise []clientv3.Op
	for i := range ops {
		op := &ops[i]
		key := e.o.Prefix + op.Key
		if op.Expect != store.Any {
			conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(key), "=", op.Expect))
			otherwise = append(otherwise, clientv3.OpGet(key, clientv3.WithKeysOnly()))
		}
		if op.Delete {
			then = append(then, clientv3.OpDelete(key))
			continue
		}
		lease, err := e.leases.get(ctx, op.TTL)
		if err != nil {
			return 0, e.failure(caller, err)
		}
		then = append(then, clientv3.OpPut(key, string(op.Value), clientv3.WithLease(lease)))
	}
	r, err := e.client.Txn(ctx).If(conditions...).Then(then...).Else(otherwise...).Commit()
	if err != nil {
		return 0, e.failure(caller, err)
	}
	if r.Succeeded {
		return r.Header.Revision, nil
	}
	answers := r.Responses
	for i := range ops {
		if ops[i].Expect == store.Any {
			continue
		}
		actual := int64(0)
		if kvs := answers[0].GetResponseRange().Kvs; len(kvs) > 0 {
			actual = kvs[0].ModRevision
		}
		if answers = answers[1:]; actual != ops[i].Expect {
			return 0, &store.ConflictError{Key: ops[i].Key, Expected: ops[i].Expect, Actual: actual}
		}
	}
	return 0, errors.New("etcd: it refused a transaction whose conditions hold")
}

// Compact implements store.Engine.
func (e *Engine) Compact(caller context.Context, revision int64) error {
	ctx, end, err := e.begin(caller)
	if err != nil {
		return err
	}
	defer end()
	_, err = e.client.Compact(ctx, revision)
	if errors.Is(err, rpctypes.ErrCompacted) {
		return nil
	}
	return e.readFailure(caller, ctx, revision, err)
}
