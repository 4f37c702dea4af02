package store

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"time"
)

// The portable snapshot is a header, records in the order of their keys, and a
// trailer. All integers are unsigned varints.
//
//	header  "SKIFFSNAP1\n" revision
//	record  1 create mod expiry len(key) key len(value) value
//	trailer 0 number-of-records crc
//
// expiry is in milliseconds since 1970, 0 for never; crc is the CRC-32C of all
// bytes before it, in four big-endian bytes. It is not compressed, so that the
// caller may choose how.
const snapshotMagic = "SKIFFSNAP1\n"

// A snapshot with a longer key or value than this is taken for damaged.
const maxSnapshotField = 1 << 30

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SnapshotKV is one key of a snapshot.
type SnapshotKV struct {
	KV
	// Expires is when the key's TTL ends; zero means never.
	Expires time.Time
}

// SnapshotWriter writes the portable form. Close must be called at the end: a
// snapshot without it is refused.
type SnapshotWriter struct {
	w   *bufio.Writer
	crc hash.Hash32
	buf []byte
	n   uint64
}

// NewSnapshotWriter writes the header for a snapshot of a revision.
func NewSnapshotWriter(w io.Writer, revision int64) (*SnapshotWriter, error) {
	crc := crc32.New(castagnoli)
	s := &SnapshotWriter{w: bufio.NewWriterSize(io.MultiWriter(w, crc), 64<<10), crc: crc}
	s.buf = binary.AppendUvarint(append(s.buf, snapshotMagic...), uint64(revision))
	_, err := s.w.Write(s.buf)
	return s, err
}

// Write adds a key. Keys must come in ascending order.
func (s *SnapshotWriter) Write(kv SnapshotKV) error {
	expiry := int64(0)
	if !kv.Expires.IsZero() {
		expiry = kv.Expires.UnixMilli()
	}
	b := append(s.buf[:0], 1)
	for _, n := range [...]uint64{uint64(kv.CreateRevision), uint64(kv.ModRevision), uint64(expiry), uint64(len(kv.Key))} {
		b = binary.AppendUvarint(b, n)
	}
	b = append(b, kv.Key...)
	b = binary.AppendUvarint(b, uint64(len(kv.Value)))
	s.buf = b
	s.n++
	if _, err := s.w.Write(b); err != nil {
		return err
	}
	_, err := s.w.Write(kv.Value)
	return err
}

// Close writes the trailer. It does not close the underlying writer.
func (s *SnapshotWriter) Close() error {
	if _, err := s.w.Write(binary.AppendUvarint([]byte{0}, s.n)); err != nil {
		return err
	}
	if err := s.w.Flush(); err != nil {
		return err
	}
	if _, err := s.w.Write(binary.BigEndian.AppendUint32(nil, s.crc.Sum32())); err != nil {
		return err
	}
	return s.w.Flush()
}

// ErrSnapshot is what every error about a damaged snapshot wraps.
var ErrSnapshot = errors.New("the snapshot is damaged or incomplete")

// ReadSnapshot reads a portable snapshot and calls fn for each key in it, in
// order; it returns the revision of the snapshot. Whether all of it is sound is
// only known at the end: what fn did must be undone if there is an error.
func ReadSnapshot(r io.Reader, fn func(SnapshotKV) error) (int64, error) {
	s := snapshotReader{r: bufio.NewReaderSize(r, 64<<10)}
	if magic := s.bytes(uint64(len(snapshotMagic))); s.err == nil && string(magic) != snapshotMagic {
		return 0, fmt.Errorf("%w: it does not begin like a snapshot", ErrSnapshot)
	}
	revision := s.int()
	last := ""
	for n := uint64(0); s.err == nil; n++ {
		switch more := s.int(); {
		case s.err != nil:
		case more == 1:
			kv := SnapshotKV{KV: KV{CreateRevision: s.int(), ModRevision: s.int()}}
			if expiry := s.int(); expiry != 0 {
				kv.Expires = time.UnixMilli(expiry)
			}
			kv.Key = string(s.bytes(uint64(s.int())))
			kv.Value = s.bytes(uint64(s.int()))
			if s.err != nil {
				break
			}
			if kv.Key <= last || kv.CreateRevision < 1 || kv.ModRevision < kv.CreateRevision || kv.ModRevision > revision {
				return 0, fmt.Errorf("%w: record %d (key %q) is out of order", ErrSnapshot, n, kv.Key)
			}
			last = kv.Key
			if err := fn(kv); err != nil {
				return 0, err
			}
		case more == 0:
			if count := uint64(s.int()); s.err == nil && count != n {
				return 0, fmt.Errorf("%w: it has %d keys instead of %d", ErrSnapshot, n, count)
			}
			want := s.crc
			if sum := s.bytes(4); s.err == nil && binary.BigEndian.Uint32(sum) != want {
				return 0, fmt.Errorf("%w: its checksum does not match", ErrSnapshot)
			}
			if s.err == nil {
				return revision, nil
			}
		default:
			return 0, fmt.Errorf("%w: record %d has kind %d", ErrSnapshot, n, more)
		}
	}
	return 0, s.err
}

// Restore writes the keys of a portable snapshot into an engine that has none
// of them. They get new revisions: an engine's own way to restore, if it has
// one, keeps them. Keys that have expired are left out.
func Restore(ctx context.Context, e Engine, r io.Reader, now time.Time) error {
	// Within the limits of an etcd with default settings.
	const maxOps, maxBytes = 100, 1 << 20
	var ops []Op
	size := 0
	flush := func() error {
		if len(ops) == 0 {
			return nil
		}
		if _, err := e.Txn(ctx, ops...); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		ops, size = nil, 0
		return nil
	}
	_, err := ReadSnapshot(r, func(kv SnapshotKV) error {
		op := Op{Key: kv.Key, Value: kv.Value}
		if !kv.Expires.IsZero() {
			if op.TTL = int64(kv.Expires.Sub(now).Seconds()); op.TTL < 1 {
				return nil
			}
		}
		if n := len(op.Key) + len(op.Value); len(ops) == maxOps || size+n > maxBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		ops = append(ops, op)
		size += len(op.Key) + len(op.Value)
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// snapshotReader reads fields until the first error, which it keeps.
type snapshotReader struct {
	r   *bufio.Reader
	crc uint32
	one [1]byte
	err error
}

// ReadByte makes snapshotReader an io.ByteReader.
func (s *snapshotReader) ReadByte() (byte, error) {
	b, err := s.r.ReadByte()
	if err == nil {
		s.one[0] = b
		s.crc = crc32.Update(s.crc, castagnoli, s.one[:])
	}
	return b, err
}

func (s *snapshotReader) int() int64 {
	if s.err != nil {
		return 0
	}
	u, err := binary.ReadUvarint(s)
	if err == nil && int64(u) < 0 {
		err = errors.New("a number is too large")
	}
	s.fail(err)
	return int64(u)
}

// bytes reads n bytes. It does not trust n for the size of its buffer.
func (s *snapshotReader) bytes(n uint64) []byte {
	if s.err != nil {
		return nil
	}
	if n > maxSnapshotField {
		s.fail(fmt.Errorf("a field has %d bytes", n))
		return nil
	}
	b := make([]byte, 0, min(n, 1<<20))
	for uint64(len(b)) < n && s.err == nil {
		have := len(b)
		b = append(b, make([]byte, min(n-uint64(have), 1<<20))...)
		_, err := io.ReadFull(s.r, b[have:])
		s.fail(err)
	}
	s.crc = crc32.Update(s.crc, castagnoli, b)
	return b
}

func (s *snapshotReader) fail(err error) {
	switch {
	case err == nil:
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		s.err = fmt.Errorf("%w: it ends too early", ErrSnapshot)
	default:
		s.err = fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
}
