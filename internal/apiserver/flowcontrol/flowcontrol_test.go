package flowcontrol

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"skiff/internal/identity"
)

// upstream returns a controller with upstream's default objects.
func upstream(t testing.TB, seats int) *Controller {
	t.Helper()
	data, err := os.ReadFile("testdata/defaults.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	c := New(seats, clock.RealClock{})
	for line := range bytes.Lines(data) {
		var kind metav1.TypeMeta
		var s flowcontrolv1.FlowSchema
		var l flowcontrolv1.PriorityLevelConfiguration
		if err := errors.Join(json.Unmarshal(line, &kind), json.Unmarshal(line, &s), json.Unmarshal(line, &l)); err != nil {
			t.Fatal(err)
		}
		if kind.Kind == "FlowSchema" {
			c.mu.schemas[s.Name] = &s
		} else {
			c.mu.levels[l.Name] = &l
		}
	}
	c.digest()
	return c
}

// with returns a controller in which one level gets everybody's requests.
func with(seats int, limited *flowcontrolv1.LimitedPriorityLevelConfiguration) *Controller {
	c := New(seats, clock.RealClock{})
	c.mu.levels["all"] = &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "all"},
		Spec:       flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: limited},
	}
	s := mandatorySchemas()[1]
	s.Name, s.Spec.PriorityLevelConfiguration.Name, s.Spec.MatchingPrecedence = "all", "all", 100
	c.mu.schemas["all"] = s
	c.digest()
	return c
}

func queues(n, hand, length int32) flowcontrolv1.LimitResponse {
	return flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeQueue,
		Queuing: &flowcontrolv1.QueuingConfiguration{Queues: n, HandSize: hand, QueueLengthLimit: length}}
}

func user(name string) *identity.User {
	return &identity.User{Name: name, Groups: []string{identity.GroupAuthenticated}}
}

func get(u *identity.User) *Request {
	return &Request{User: u, Verb: "get", Resource: "pods", Namespace: "default"}
}

func TestClassify(t *testing.T) {
	c := upstream(t, 600)
	node := &identity.User{Name: "system:node:n", Groups: []string{identity.GroupNodes, identity.GroupAuthenticated}}
	account := func(ns, name string) *identity.User {
		return &identity.User{Name: identity.ServiceAccountPrefix + ns + ":" + name,
			Groups: []string{identity.GroupServiceAccounts, identity.GroupServiceAccounts + ":" + ns, identity.GroupAuthenticated}}
	}
	for _, tt := range []struct {
		request       Request
		schema, level string
	}{
		{Request{User: identity.Loopback(), Verb: "delete", Resource: "pods", Namespace: "x"}, "exempt", "exempt"},
		{Request{User: user("u"), Verb: "get", Path: "/healthz"}, "probes", "exempt"},
		{Request{User: node, Verb: "update", Resource: "nodes", Subresource: "status"}, "system-node-high", "node-high"},
		{Request{User: node, Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-node-lease"}, "system-node-high", "node-high"},
		{Request{User: node, Verb: "list", Resource: "pods"}, "system-nodes", "system"},
		{Request{User: user("system:kube-scheduler"), Verb: "create", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-system"}, "system-leader-election", "leader-election"},
		{Request{User: account("default", "x"), Verb: "get", Group: "coordination.k8s.io", Resource: "leases", Namespace: "other"}, "service-accounts", "workload-low"},
		{Request{User: account("kube-system", "generic-garbage-collector"), Verb: "list", Resource: "pods"}, "kube-system-service-accounts", "workload-high"},
		{Request{User: user("system:kube-controller-manager"), Verb: "list", Resource: "pods"}, "kube-controller-manager", "workload-high"},
		{Request{User: account("default", "x"), Verb: "list", Resource: "pods"}, "service-accounts", "workload-low"},
		{Request{User: user("somebody"), Verb: "get", Resource: "pods", Namespace: "a"}, "global-default", "global-default"},
		{Request{User: &identity.User{Name: "stranger"}, Verb: "get", Resource: "pods"}, "catch-all", "catch-all"},
	} {
		class := c.Classify(&tt.request)
		if schema, level := class.Names(); schema != tt.schema || level != tt.level {
			t.Errorf("%s %s%s by %s: %s at %s, want %s at %s", tt.request.Verb, tt.request.Resource, tt.request.Path, tt.request.User.Name, schema, level, tt.schema, tt.level)
		}
	}
}

// TestDefaultLimits has the numbers that upstream's metrics show for the
// default objects and 600 seats.
func TestDefaultLimits(t *testing.T) {
	c := upstream(t, 600)
	for name, want := range map[string]bounds{
		"catch-all": {13, 13, 613}, "exempt": {0, 0, 0}, "global-default": {49, 24, 649}, "leader-election": {25, 25, 625},
		"node-high": {98, 73, 698}, "system": {74, 50, 674}, "workload-high": {98, 49, 698}, "workload-low": {245, 24, 845},
	} {
		if got := c.mu.running[name].mu.bounds; got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

func TestQueueing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := with(1000, &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: ptr.To[int32](5), LimitResponse: queues(1, 1, 2)})
		l := c.mu.running["all"]
		l.setLimit(1)
		class := c.Classify(get(user("u")))
		first, err := c.Acquire(t.Context(), class, 1, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		results := make(chan error, 2)
		var order []int
		for i := range 2 {
			go func() {
				seat, err := c.Acquire(t.Context(), class, 1, time.Minute)
				if err == nil {
					order = append(order, i)
					seat.Release()
				}
				results <- err
			}()
			synctest.Wait()
		}
		if _, err := c.Acquire(t.Context(), class, 1, time.Minute); !errors.Is(err, ErrTooMany) {
			t.Fatalf("a third in a queue of two: %v", err)
		}
		first.Release()
		for range 2 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if fmt.Sprint(order) != "[0 1]" {
			t.Errorf("served in the order %v", order)
		}
		// Who waits for too long, or leaves, is refused and leaves no trace.
		hold, _ := c.Acquire(t.Context(), class, 1, time.Minute)
		began := time.Now()
		if _, err := c.Acquire(t.Context(), class, 1, 3*time.Second); !errors.Is(err, ErrTooMany) || time.Since(began) != 3*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Acquire(ctx, class, 1, time.Minute); !errors.Is(err, ErrTooMany) {
			t.Error(err)
		}
		hold.Release()
		if !l.idle() || l.mu.active != 0 || l.mu.executingSeats != 0 || l.mu.waitingSeats != 0 {
			t.Errorf("the level is not empty: %+v", &l.mu)
		}
	})
}

// TestFairness has one flow ask for far more than another: both get the same as
// long as both ask.
func TestFairness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := with(1000, &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: ptr.To[int32](5), LimitResponse: queues(64, 8, 100)})
		l := c.mu.running["all"]
		l.setLimit(4)
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		served := map[string]int{}
		var wg sync.WaitGroup
		run := func(name string, clients int) {
			class := c.Classify(get(user(name)))
			for range clients {
				wg.Go(func() {
					for ctx.Err() == nil {
						seat, err := c.Acquire(ctx, class, 1, time.Hour)
						if err != nil {
							return
						}
						<-time.After(10 * time.Millisecond)
						seat.Release()
						mu.Lock()
						served[name]++
						mu.Unlock()
					}
				})
			}
		}
		run("elephant", 100)
		run("mouse", 4)
		<-time.After(10 * time.Second)
		cancel()
		wg.Wait()
		// The elephant's hand is eight queues to the mouse's four busy ones.
		if served["mouse"] < served["elephant"]/4 || served["mouse"]+served["elephant"] < 3900 {
			t.Errorf("served %v", served)
		}
	})
}

func TestReject(t *testing.T) {
	c := with(1000, &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: ptr.To[int32](5), LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}})
	c.mu.running["all"].setLimit(1)
	class := c.Classify(get(user("u")))
	seat, err := c.Acquire(t.Context(), class, 1, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Acquire(t.Context(), class, 1, time.Minute); !errors.Is(err, ErrTooMany) {
		t.Error(err)
	}
	// Members of system:masters are never held up.
	for range 5000 {
		if _, err := c.Acquire(t.Context(), c.Classify(get(identity.Loopback())), 1, 0); err != nil {
			t.Fatal(err)
		}
	}
	seat.Release()
	// What is wider than the level is served when it is alone.
	if seat, err = c.Acquire(t.Context(), class, 5, time.Minute); err != nil {
		t.Error(err)
	}
	seat.Release()
}

// TestBorrowing crowds one level while the others have nothing to do: it gets
// their lendable seats, and they get them back when they need them.
func TestBorrowing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := upstream(t, 600)
		limits := func(name string) (limit, lower int) {
			l := c.mu.running[name]
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.mu.limit, l.mu.bounds.lower
		}
		begin, _ := limits("global-default")
		var seats []Seat
		var wg sync.WaitGroup
		var mu sync.Mutex
		for i := range 300 {
			wg.Go(func() {
				seat, err := c.Acquire(t.Context(), c.Classify(get(user(fmt.Sprint("u", i)))), 1, 5*time.Minute)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				seats = append(seats, seat)
				mu.Unlock()
			})
		}
		<-time.After(2*adjustPeriod + time.Second)
		lent, _ := limits("global-default")
		low, least := limits("workload-low")
		if lent <= begin || low < least {
			t.Errorf("the crowded level went from %d to %d seats, workload-low has %d", begin, lent, low)
		}
		sum := 0
		for name := range c.mu.running {
			limit, _ := limits(name)
			sum += limit
		}
		if sum > 610 {
			t.Errorf("the limits add up to %d", sum)
		}
		// All leave, and nothing runs any more.
		wg.Go(func() {
			for left := 300; left > 0; {
				mu.Lock()
				ready := seats
				seats = nil
				mu.Unlock()
				for i := range ready {
					ready[i].Release()
				}
				left -= len(ready)
				<-time.After(time.Millisecond)
			}
		})
		wg.Wait()
		<-time.After(2 * adjustPeriod)
		if c.adjusting.Load() {
			t.Error("limits are still being adjusted")
		}
	})
}

func TestMandatory(t *testing.T) {
	c := New(600, clock.RealClock{})
	for u, want := range map[*identity.User]string{identity.Loopback(): "exempt", user("u"): "catch-all"} {
		class := c.Classify(get(u))
		if schema, _ := class.Names(); schema != want {
			t.Errorf("%s: %s", u.Name, schema)
		}
	}
}

func TestHandsAreDistinct(t *testing.T) {
	c := with(1000, &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: ptr.To[int32](5), LimitResponse: queues(16, 8, 100)})
	l := c.mu.running["all"]
	for hash := range uint64(2000) {
		seen := map[*queue]bool{}
		for range 8 {
			// The chosen queue becomes the fullest, so the next choice is another
			// of the hand.
			q := l.chooseLocked(hash * 0x9e3779b97f4a7c15)
			if seen[q] {
				t.Fatalf("hash %d deals a queue twice", hash)
			}
			seen[q] = true
			q.executing++
		}
		for q := range seen {
			q.executing = 0
		}
	}
}

// BenchmarkUncontended is what priority and fairness costs a request that need
// not wait.
func BenchmarkUncontended(b *testing.B) {
	c := upstream(b, 600)
	request := get(user("somebody"))
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		seat, err := c.Acquire(ctx, c.Classify(request), 1, time.Minute)
		if err != nil {
			b.Fatal(err)
		}
		seat.Release()
	}
}
