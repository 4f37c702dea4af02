package store

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

func snapshot(t testing.TB, revision int64, kvs ...SnapshotKV) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewSnapshotWriter(&b, revision)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs {
		if err := w.Write(kv); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var samples = []SnapshotKV{
	{KV: KV{Key: "/a", Value: []byte("1"), CreateRevision: 2, ModRevision: 2}},
	{KV: KV{Key: "/b", Value: bytes.Repeat([]byte("x"), 200_000), CreateRevision: 3, ModRevision: 700}, Expires: time.UnixMilli(1_700_000_000_123)},
	{KV: KV{Key: "/c", Value: []byte{}, CreateRevision: 4, ModRevision: 4}},
}

func TestSnapshotRoundTrip(t *testing.T) {
	var got []SnapshotKV
	revision, err := ReadSnapshot(bytes.NewReader(snapshot(t, 1000, samples...)), func(kv SnapshotKV) error {
		got = append(got, kv)
		return nil
	})
	if err != nil || revision != 1000 || len(got) != len(samples) {
		t.Fatalf("ReadSnapshot: %d keys at %d, %v", len(got), revision, err)
	}
	for i, kv := range got {
		want := samples[i]
		if kv.Key != want.Key || !bytes.Equal(kv.Value, want.Value) || kv.CreateRevision != want.CreateRevision ||
			kv.ModRevision != want.ModRevision || !kv.Expires.Equal(want.Expires) {
			t.Errorf("key %d came back as %s %d/%d %s", i, kv.Key, kv.CreateRevision, kv.ModRevision, kv.Expires)
		}
	}
	if revision, err := ReadSnapshot(bytes.NewReader(snapshot(t, 7)), func(SnapshotKV) error { return nil }); err != nil || revision != 7 {
		t.Errorf("an empty snapshot: %d, %v", revision, err)
	}
}

// Every bit of a snapshot counts.
func TestSnapshotDamage(t *testing.T) {
	whole := snapshot(t, 1000, samples[0], samples[2])
	read := func(b []byte) error {
		_, err := ReadSnapshot(bytes.NewReader(b), func(SnapshotKV) error { return nil })
		return err
	}
	for n := range whole {
		if err := read(whole[:n]); !errors.Is(err, ErrSnapshot) {
			t.Errorf("the first %d of %d bytes: %v, want ErrSnapshot", n, len(whole), err)
		}
		for bit := range 8 {
			flipped := bytes.Clone(whole)
			flipped[n] ^= 1 << bit
			if err := read(flipped); !errors.Is(err, ErrSnapshot) {
				t.Errorf("with bit %d of byte %d flipped: %v, want ErrSnapshot", bit, n, err)
			}
		}
	}
	stop := errors.New("stop")
	if _, err := ReadSnapshot(bytes.NewReader(whole), func(SnapshotKV) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("fn's error came back as %v", err)
	}
}

func FuzzReadSnapshot(f *testing.F) {
	f.Add(snapshot(f, 1000, samples[0], samples[2]))
	f.Add([]byte(snapshotMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		var kvs []SnapshotKV
		revision, err := ReadSnapshot(bytes.NewReader(b), func(kv SnapshotKV) error {
			kvs = append(kvs, kv)
			return nil
		})
		if err != nil {
			return
		}
		again := snapshot(t, revision, kvs...)
		n := 0
		if got, err := ReadSnapshot(bytes.NewReader(again), func(SnapshotKV) error { n++; return nil }); err != nil || got != revision || n != len(kvs) {
			t.Errorf("%d keys at %d came back as %d at %d: %v", len(kvs), revision, n, got, err)
		}
	})
}
