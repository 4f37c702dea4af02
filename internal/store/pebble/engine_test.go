package pebble

import (
	"testing"

	"skiff/internal/store"
	"skiff/internal/store/enginetest"
)

func open(t testing.TB, dir string) *Engine {
	t.Helper()
	e, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func TestEngine(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) store.Engine { return open(t, t.TempDir()) })
}
