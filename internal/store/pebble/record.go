package pebble

import (
	"encoding/binary"
	"errors"
)

// The database holds five kinds of records, told apart by their first byte. All
// fixed integers are big-endian, so that byte order is numeric order.
//
//	c <key>               current: revisions and expiry of a key that exists
//	e <expiry> <key>      expiry index, one for each key with a TTL
//	m <name>              metadata
//	r <revision>          log: the keys one transaction changed
//	v <key> 0 ^<revision> version: what a key held from that revision on, the
//	                      newest first
//
// A value is stored once, in its version record. The current records are small
// and are held in memory while the database is open, so that checking a
// condition reads nothing. A key has no NUL byte, so versions sort by key and
// then by age.
const (
	kindCurrent = 'c'
	kindExpiry  = 'e'
	kindMeta    = 'm'
	kindLog     = 'r'
	kindVersion = 'v'
)

var (
	metaFormat    = []byte{kindMeta, 'f'}
	metaCompacted = []byte{kindMeta, 'c'}
	metaStart     = []byte{kindMeta, 's'}
)

// formatVersion is the layout written here; Open refuses any other.
const formatVersion = 1

var errRecord = errors.New("malformed record")

// current is what is known of a key without its value. The zero value stands
// for a key that does not exist.
type current struct {
	create, mod int64
	// expiry in milliseconds since 1970; 0 means never.
	expiry int64
}

func appendCurrentKey(b []byte, key string) []byte {
	return append(append(b, kindCurrent), key...)
}

func appendCurrent(b []byte, c current) []byte {
	b = binary.AppendUvarint(b, uint64(c.create))
	b = binary.AppendUvarint(b, uint64(c.mod))
	return binary.AppendUvarint(b, uint64(c.expiry))
}

func decodeCurrent(b []byte) (current, error) {
	d := decoder{b: b}
	c := current{create: d.int(), mod: d.int(), expiry: d.int()}
	if d.bad || len(d.b) != 0 || c.create < 1 || c.mod < c.create {
		return current{}, errRecord
	}
	return c, nil
}

func appendExpiryKey(b []byte, expiry int64, key string) []byte {
	b = binary.BigEndian.AppendUint64(append(b, kindExpiry), uint64(expiry))
	return append(b, key...)
}

func decodeExpiryKey(b []byte) (expiry int64, key string, err error) {
	if len(b) < 10 || b[0] != kindExpiry || b[1] > 0x7f {
		return 0, "", errRecord
	}
	return int64(binary.BigEndian.Uint64(b[1:])), string(b[9:]), nil
}

func appendLogKey(b []byte, revision int64) []byte {
	return binary.BigEndian.AppendUint64(append(b, kindLog), uint64(revision))
}

func decodeLogKey(b []byte) (int64, error) {
	if len(b) != 9 || b[0] != kindLog || b[1] > 0x7f {
		return 0, errRecord
	}
	return int64(binary.BigEndian.Uint64(b[1:])), nil
}

// change is one key of a log record.
type change struct {
	key string
	// create is 0 for a removal; prev is the revision of the version that was
	// replaced, 0 if there was none.
	create, prev int64
}

func appendChange(b []byte, c change) []byte {
	b = binary.AppendUvarint(b, uint64(c.create))
	b = binary.AppendUvarint(b, uint64(c.prev))
	b = binary.AppendUvarint(b, uint64(len(c.key)))
	return append(b, c.key...)
}

// decodeLog calls fn for each change of a log record.
func decodeLog(b []byte, fn func(change)) error {
	if len(b) == 0 {
		return errRecord
	}
	for d := (decoder{b: b}); len(d.b) > 0; {
		c := change{create: d.int(), prev: d.int()}
		c.key = string(d.bytes())
		if d.bad || c.key == "" {
			return errRecord
		}
		fn(c)
	}
	return nil
}

func appendVersionKey(b []byte, key string, revision int64) []byte {
	b = append(append(append(b, kindVersion), key...), 0)
	return binary.BigEndian.AppendUint64(b, ^uint64(revision))
}

// splitVersionKey returns the part of b that is the key, and the revision.
func splitVersionKey(b []byte) (key []byte, revision int64, err error) {
	n := len(b) - 9
	if n < 2 || b[0] != kindVersion || b[n] != 0 || b[n+1] < 0x80 {
		return nil, 0, errRecord
	}
	return b[1:n], int64(^binary.BigEndian.Uint64(b[n+1:])), nil
}

// uvarintLen is the number of bytes AppendUvarint writes.
func uvarintLen(n int64) int {
	l := 1
	for u := uint64(n); u >= 0x80; u >>= 7 {
		l++
	}
	return l
}

// splitVersion splits a version record into the revision that created the key
// (0: it was removed) and its value, which aliases b.
func splitVersion(b []byte) (create int64, value []byte, err error) {
	d := decoder{b: b}
	create = d.int()
	if d.bad || create == 0 && len(d.b) != 0 {
		return 0, nil, errRecord
	}
	return create, d.b, nil
}

func decodeRevision(b []byte) (int64, error) {
	if len(b) != 8 || b[0] > 0x7f {
		return 0, errRecord
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}

// prefixEnd is the first key after all those that start with b.
func prefixEnd(b []byte) []byte {
	end := append([]byte(nil), b...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}

// decoder reads the fields of a record; bad says that one was missing.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) int() int64 {
	u, n := binary.Uvarint(d.b)
	if n <= 0 || int64(u) < 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return int64(u)
}

func (d *decoder) bytes() []byte {
	n := d.int()
	if d.bad || n > int64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}
