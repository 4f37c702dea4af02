package pebble

import (
	"bytes"
	"testing"
)

// FuzzRecords feeds the decoders anything: they must not panic, and what they
// accept must be encoded the same again (numbers may be longer than needed).
func FuzzRecords(f *testing.F) {
	f.Add(appendCurrent(nil, current{create: 2, mod: 1 << 40, expiry: 1_700_000_000_000}))
	f.Add(appendExpiryKey(nil, 1_700_000_000_000, "/registry/events/a/b"))
	f.Add(appendLogKey(nil, 1<<50))
	f.Add(appendVersionKey(nil, "/registry/pods/a/b", 77))
	f.Add(appendChange(appendChange(nil, change{key: "/a", create: 3, prev: 2}), change{key: "/b", prev: 9}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := decodeCurrent(b); err == nil {
			if again, err := decodeCurrent(appendCurrent(nil, c)); err != nil || again != c {
				t.Errorf("current %+v came back as %+v, %v", c, again, err)
			}
		}
		if expiry, key, err := decodeExpiryKey(b); err == nil && !bytes.Equal(appendExpiryKey(nil, expiry, key), b) {
			t.Errorf("expiry key %x is not canonical", b)
		}
		if revision, err := decodeLogKey(b); err == nil && !bytes.Equal(appendLogKey(nil, revision), b) {
			t.Errorf("log key %x is not canonical", b)
		}
		if key, revision, err := splitVersionKey(b); err == nil && !bytes.Equal(appendVersionKey(nil, string(key), revision), b) {
			t.Errorf("version key %x is not canonical", b)
		}
		var changes []change
		if err := decodeLog(b, func(c change) { changes = append(changes, c) }); err == nil {
			var again []byte
			for _, c := range changes {
				again = appendChange(again, c)
			}
			i := 0
			err := decodeLog(again, func(c change) {
				if c != changes[i] {
					t.Errorf("change %+v came back as %+v", changes[i], c)
				}
				i++
			})
			if err != nil || i != len(changes) {
				t.Errorf("%d of %d changes came back: %v", i, len(changes), err)
			}
		}
		if create, value, err := splitVersion(b); err == nil && len(value) > len(b) || create < 0 {
			t.Errorf("version %d, %x", create, value)
		}
		_, _ = decodeRevision(b)
	})
}
