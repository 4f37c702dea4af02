package timers

import (
	"context"
	"testing"
	"time"

	testingclock "k8s.io/utils/clock/testing"
)

func TestQueue(t *testing.T) {
	clock := testingclock.NewFakeClock(time.Unix(0, 0))
	fired := make(chan string, 10)
	q := New(clock, func(key string) { fired <- key })
	at := func(seconds int) time.Time { return time.Unix(int64(seconds), 0) }
	q.Set("b", at(20))
	q.Set("a", at(10))
	q.Set("c", at(30))
	q.Set("gone", at(15))
	q.Cancel("gone")
	q.Set("c", at(5)) // earlier than before
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); q.Run(ctx) }()
	for _, want := range []struct {
		at  int
		key string
	}{{5, "c"}, {10, "a"}, {20, "b"}} {
		for !clock.HasWaiters() {
			time.Sleep(time.Millisecond)
		}
		clock.SetTime(at(want.at))
		if got := <-fired; got != want.key {
			t.Fatalf("at %d s %s fired, want %s", want.at, got, want.key)
		}
	}
	// A new first deadline wakes the queue.
	q.Set("now", clock.Now())
	if got := <-fired; got != "now" {
		t.Fatalf("%s fired", got)
	}
	cancel()
	<-done
	if len(fired) != 0 {
		t.Errorf("%s fired too", <-fired)
	}
}
