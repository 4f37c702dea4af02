// Package encryption keeps chosen resources encrypted in the store, in the form
// that upstream's EncryptionConfiguration defines: a value begins with a prefix
// that names the provider and the key, so that values of different age and
// origin stand side by side, and can be read by upstream.
//
// It wraps a store.Engine: what goes in is encrypted, what comes out (by get,
// range and watch) is plain. Snapshots and the engine's own files hold the
// encrypted form.
package encryption

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/store"
)

// prefix begins every encrypted value.
const prefix = "k8s:enc:"

// provider is one way to encrypt. Its data is what follows its prefix.
type provider interface {
	encrypt(ctx context.Context, data, associated []byte) ([]byte, error)
	// decrypt tells, too, whether the data should be written anew.
	decrypt(ctx context.Context, data, associated []byte) (plain []byte, stale bool, err error)
}

// named is a provider and the whole prefix of its values; the empty prefix is
// that of values which are not encrypted.
type named struct {
	prefix string
	provider
}

// chain is what one resource's values may be encrypted by; the first writes.
type chain []named

func (c chain) encrypt(ctx context.Context, key string, value []byte) ([]byte, error) {
	data, err := c[0].encrypt(ctx, value, []byte(key))
	if err != nil {
		return nil, err
	}
	return append([]byte(c[0].prefix), data...), nil
}

// prefixOf names the provider that can read a value.
func (c chain) prefixOf(value []byte) string {
	for _, n := range c {
		if n.prefix != "" && bytes.HasPrefix(value, []byte(n.prefix)) {
			return n.prefix
		}
	}
	return "unknown"
}

func (c chain) decrypt(ctx context.Context, key string, value []byte) (plain []byte, stale bool, err error) {
	var errs []error
	for i, n := range c {
		data, ok := bytes.CutPrefix(value, []byte(n.prefix))
		if !ok || n.prefix == "" && bytes.HasPrefix(value, []byte(prefix)) {
			continue
		}
		plain, stale, err := n.decrypt(ctx, data, []byte(key))
		if err == nil {
			return plain, stale || i > 0, nil
		}
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, false, errors.Join(errs...)
	}
	if bytes.HasPrefix(value, []byte(prefix)) {
		return nil, false, errors.New("no key for it is configured: no matching prefix found")
	}
	return nil, false, errors.New("it is not encrypted, and reading plain values is not configured: add the provider identity")
}

// Engine is a store.Engine whose values are encrypted below it.
type Engine struct {
	store.Engine
	log *slog.Logger
	// resource tells which resource a key is of.
	resource func(key string) schema.GroupResource
	config   atomic.Pointer[Config]
	metrics  *Metrics
}

// New wraps an engine. The prefixes are where the built-in resources are
// stored; all other keys are those of custom resources. Without m nothing is
// counted.
func New(e store.Engine, c *Config, prefixes map[string]schema.GroupResource, m *Metrics, log *slog.Logger) *Engine {
	out := &Engine{Engine: e, log: log, metrics: m, resource: func(key string) schema.GroupResource { return resourceOf(prefixes, key) }}
	out.config.Store(c.measure(m))
	return out
}

// resourceOf finds the longest of the prefixes that the key is below; others
// are /registry/<group>/<resource>/…
func resourceOf(prefixes map[string]schema.GroupResource, key string) schema.GroupResource {
	for p := key; ; {
		i := strings.LastIndexByte(p, '/')
		if i <= 0 {
			break
		}
		p = p[:i]
		if r, ok := prefixes[p]; ok {
			return r
		}
	}
	parts := strings.SplitN(strings.TrimPrefix(key, "/registry/"), "/", 3)
	if len(parts) < 3 {
		return schema.GroupResource{}
	}
	return schema.GroupResource{Group: parts[0], Resource: parts[1]}
}

// Reload puts another configuration in force for what is read and written from
// now on.
func (e *Engine) Reload(c *Config) { e.config.Swap(c.measure(e.metrics)).close() }

// chain returns what encrypts the key's value, nil if nothing does.
func (e *Engine) chain(key string) chain { return e.config.Load().chain(e.resource(key)) }

// Stale reports whether the stored form of the key's value is not the one that
// would be written now, so that even an unchanged object is worth writing.
func (e *Engine) Stale(ctx context.Context, key string) bool {
	c := e.chain(key)
	if c == nil {
		return false
	}
	kv, err := e.Engine.Get(ctx, key)
	if err != nil {
		return false
	}
	_, stale, err := c.decrypt(ctx, key, kv.Value)
	return err == nil && stale
}

// open returns the plain form of a value. One that cannot be read stays as it
// is: its object is then unreadable, and all others are not.
func (e *Engine) open(ctx context.Context, key string, value []byte) []byte {
	c := e.chain(key)
	if c == nil || value == nil {
		return value
	}
	plain, _, err := c.decrypt(ctx, key, value)
	e.metrics.transformed(e.resource(key).String(), fromStorage, c.prefixOf(value), err)
	if err != nil {
		e.log.Error("a stored value cannot be decrypted", "key", key, "error", err)
		return value
	}
	return plain
}

// Get implements store.Engine.
func (e *Engine) Get(ctx context.Context, key string) (store.KV, error) {
	kv, err := e.Engine.Get(ctx, key)
	kv.Value = e.open(ctx, key, kv.Value)
	return kv, err
}

// Range implements store.Engine.
func (e *Engine) Range(ctx context.Context, prefix string, o store.RangeOptions, fn func(store.KV) error) (int64, error) {
	return e.Engine.Range(ctx, prefix, o, func(kv store.KV) error {
		kv.Value = e.open(ctx, kv.Key, kv.Value)
		return fn(kv)
	})
}

// Watch implements store.Engine.
func (e *Engine) Watch(ctx context.Context, prefix string, after int64, fn func(store.Batch) error) error {
	return e.Engine.Watch(ctx, prefix, after, func(b store.Batch) error {
		// The events are shared with other watchers.
		var own []store.Event
		for i := range b.Events {
			if e.chain(b.Events[i].Key) == nil || b.Events[i].Deleted {
				continue
			}
			if own == nil {
				own = append(own, b.Events...)
			}
			own[i].Value = e.open(ctx, own[i].Key, own[i].Value)
		}
		if own != nil {
			b.Events = own
		}
		return fn(b)
	})
}

// Txn implements store.Engine.
func (e *Engine) Txn(ctx context.Context, ops ...store.Op) (int64, error) {
	for i := range ops {
		c := e.chain(ops[i].Key)
		if c == nil || ops[i].Delete {
			continue
		}
		value, err := c.encrypt(ctx, ops[i].Key, ops[i].Value)
		e.metrics.transformed(e.resource(ops[i].Key).String(), toStorage, c[0].prefix, err)
		if err != nil {
			return 0, fmt.Errorf("encrypting %s: %w", ops[i].Key, err)
		}
		// The slice is the caller's variadic array, used for this call only.
		ops[i].Value = value
	}
	return e.Engine.Txn(ctx, ops...)
}

// Size implements store.Sized, if the engine below does.
func (e *Engine) Size(ctx context.Context) (int64, error) {
	if sized, ok := e.Engine.(store.Sized); ok {
		return sized.Size(ctx)
	}
	return 0, errors.ErrUnsupported
}

// Close implements store.Engine.
func (e *Engine) Close() error {
	e.config.Load().close()
	return e.Engine.Close()
}
