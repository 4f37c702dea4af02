package store

import (
	"errors"
	"fmt"
	"strings"
)

// MaxTTL is the greatest Op.TTL, in seconds. It is etcd's.
const MaxTTL = 9_000_000_000

// CheckOps says what is wrong with the operations of a transaction, as far as
// that does not depend on the engine.
func CheckOps(ops []Op) error {
	if len(ops) == 0 {
		return errors.New("a transaction needs at least one operation")
	}
	for i := range ops {
		if err := CheckKey(ops[i].Key); err != nil {
			return err
		}
		if ttl := ops[i].TTL; ttl < 0 || ttl > MaxTTL {
			return fmt.Errorf("key %s: a TTL of %d s is not between 0 and %d", ops[i].Key, ttl, int64(MaxTTL))
		}
	}
	if len(ops) == 1 {
		return nil
	}
	seen := make(map[string]struct{}, len(ops))
	for i := range ops {
		if _, twice := seen[ops[i].Key]; twice {
			return fmt.Errorf("key %s is twice in one transaction", ops[i].Key)
		}
		seen[ops[i].Key] = struct{}{}
	}
	return nil
}

// CheckKey says why key cannot be one: it must not be empty and must not have a
// NUL byte, which engines use to separate keys from what follows.
func CheckKey(key string) error {
	if key == "" {
		return errors.New("a key must not be empty")
	}
	if strings.IndexByte(key, 0) >= 0 {
		return fmt.Errorf("key %q has a NUL byte", key)
	}
	return nil
}
