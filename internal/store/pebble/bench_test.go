package pebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"skiff/internal/store"
)

// BenchmarkTxn is durable updates of 1 KiB, each of a writer's own keys.
func BenchmarkTxn(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			e := open(b, b.TempDir())
			value := bytes.Repeat([]byte("v"), 1024)
			b.ReportAllocs()
			var g sync.WaitGroup
			b.ResetTimer()
			for w := range writers {
				g.Go(func() {
					keys := make([]string, 100)
					for i := range keys {
						keys[i] = fmt.Sprintf("/registry/pods/default/pod-%d-%d", w, i)
					}
					for n := w; n < b.N; n += writers {
						op := store.Op{Key: keys[n/writers%100], Value: value, Expect: store.Any}
						if _, err := e.Txn(b.Context(), op); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			g.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "txn/s")
		})
	}
}

// BenchmarkRange reads 10,000 keys of 2 KiB.
func BenchmarkRange(b *testing.B) {
	e := open(b, b.TempDir())
	fill(b, e, 10_000, 2048)
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		if _, err := e.Range(b.Context(), "/k/", store.RangeOptions{}, func(store.KV) error { n++; return nil }); err != nil || n != 10_000 {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	e := open(b, b.TempDir())
	fill(b, e, 10_000, 2048)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Get(b.Context(), "/k/0005000"); err != nil {
			b.Fatal(err)
		}
	}
}

func fill(b *testing.B, e *Engine, keys, size int) {
	b.Helper()
	for i := 0; i < keys; {
		ops := make([]store.Op, 0, 100)
		for range min(100, keys-i) {
			ops = append(ops, store.Op{Key: fmt.Sprintf("/k/%07d", i), Value: bytes.Repeat([]byte("v"), size)})
			i++
		}
		if _, err := e.Txn(b.Context(), ops...); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWatch is updates of 64 writers while watchers follow: each of a
// prefix of its own, as the caches of resources do, and all of one.
func BenchmarkWatch(b *testing.B) {
	for _, test := range []struct {
		name   string
		prefix func(int) string
	}{
		{"own", func(i int) string { return fmt.Sprintf("/w/%02d/", i) }},
		{"all", func(int) string { return "/w/" }},
	} {
		b.Run("prefix="+test.name, func(b *testing.B) {
			const writers, watchers = 64, 64
			e := open(b, b.TempDir())
			start, err := e.Revision(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			last := start + int64(b.N)
			reached := errors.New("reached")
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			var g, w sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for i := range watchers {
				w.Go(func() {
					err := e.Watch(ctx, test.prefix(i), start, func(batch store.Batch) error {
						if batch.Revision >= last {
							return reached
						}
						return nil
					})
					if !errors.Is(err, reached) {
						b.Error(err)
					}
				})
			}
			value := bytes.Repeat([]byte("v"), 1024)
			for i := range writers {
				g.Go(func() {
					key := fmt.Sprintf("/w/%02d/x", i)
					for n := i; n < b.N; n += writers {
						if _, err := e.Txn(ctx, store.Op{Key: key, Value: value, Expect: store.Any}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			g.Wait()
			if _, err := e.Revision(ctx); err != nil {
				b.Error(err)
			}
			w.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "txn/s")
		})
	}
}
