package controllertest

import (
	"context"
	"fmt"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	skiffclient "skiff/internal/client"
	"skiff/internal/controllers/controller"
	"skiff/internal/identity"
)

// Runs are what makes controllers, by the accounts that they run as; that with
// the empty name is the server itself.
type Runs map[string]func(controller.Deps) (controller.Runnable, error)

// Keeper is a controller that keeps something the way that other objects say.
type Keeper struct {
	Name string
	Run  func(*Keeping) Runs
	// Around is made once, and so is what Before makes; Main makes what the
	// controller serves.
	Around []client.Object
	Before func(*Keeping)
	Main   func() client.Object
	// Poke changes what is right; Right says whether it is so, and nothing is left
	// over. Changes of Watched may make it so, and those of Also.
	Poke          func(x *Keeping, i int)
	Right         func(x *Keeping) bool
	Watched, Also client.ObjectList
	// Writes is how many of them a poke may cost, besides its own.
	Writes int
}

// Keeping is one controller in one cluster, going through one fault.
type Keeping struct {
	*Cluster
	T     *testing.T
	Clock *JumpingClock

	k       Keeper
	remote  *skiffclient.Set
	stop    []func()
	changed chan struct{}
}

// Changed says that something outside the API has changed that matters for what
// is right.
func (x *Keeping) Changed() { tell(x.changed) }

// Keep demands that whatever goes wrong, things are as they should be in the
// end, nothing is left over, and afterwards an event costs few writes.
func (k Keeper) Keep(t *testing.T) {
	t.Run(k.Name, func(t *testing.T) {
		t.Parallel()
		for _, trouble := range troubles {
			t.Run(trouble.name, func(t *testing.T) {
				clk := &JumpingClock{}
				x := &Keeping{Cluster: StartAt(t, clk), T: t, k: k, Clock: clk, changed: make(chan struct{}, 1)}
				x.start()
				for _, o := range k.Around {
					x.Create(o.DeepCopyObject().(client.Object))
				}
				if k.Before != nil {
					k.Before(x)
				}
				if err := x.Client.Create(context.Background(), k.Main()); err != nil && !apierrors.IsAlreadyExists(err) {
					t.Fatal(err)
				}
				x.settle("at first")
				trouble.happen(x)
				x.settle("recovery")
				x.quiet()
			})
		}
	})
}

func (x *Keeping) start() {
	for account, make := range x.k.Run(x) {
		switch {
		case x.remote != nil:
			x.stop = append(x.stop, x.RunOver(*x.remote, account, make))
		case account == "":
			x.stop = append(x.stop, x.RunOver(x.Set(identity.Loopback()), account, make))
		default:
			x.stop = append(x.stop, x.Run(account, make))
		}
	}
}

func (x *Keeping) end() {
	for _, stop := range x.stop {
		stop()
	}
	x.stop = nil
}

func (x *Keeping) settle(what string) {
	x.T.Helper()
	lists := []client.ObjectList{x.k.Watched}
	if x.k.Also != nil {
		lists = append(lists, x.k.Also)
	}
	x.await(what, x.changed, func() bool { return x.k.Right(x) }, lists...)
}

// Object is what the controller serves, as it is now.
func (x *Keeping) Object() client.Object {
	o := x.k.Main()
	return Get(x.Cluster, o.GetNamespace(), o.GetName(), o)
}

// release takes the finalizers of what the controller serves: nobody protects
// what is deleted here.
func (x *Keeping) release() {
	err := x.Client.Patch(context.Background(), x.k.Main(), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`)))
	if client.IgnoreNotFound(err) != nil {
		x.T.Fatal(err)
	}
}

// makeAgain makes it again once it is gone, unless the controller has done so.
func (x *Keeping) makeAgain() {
	ctx, o := context.Background(), x.k.Main()
	for {
		err := x.Client.Create(ctx, x.k.Main())
		if err == nil {
			return
		}
		if !apierrors.IsAlreadyExists(err) {
			x.T.Fatal(err)
		}
		if x.Client.Get(ctx, client.ObjectKeyFromObject(o), o) == nil && o.GetDeletionTimestamp() == nil {
			return
		}
		x.release()
	}
}

var troubles = []struct {
	name   string
	happen func(*Keeping)
}{
	{"others write at the same time", func(x *Keeping) {
		for i := range 10 {
			x.k.Poke(x, i)
			Change(x.Cluster, x.Object(), func(o client.Object) {
				o.SetLabels(map[string]string{"count": fmt.Sprint(i)})
			})
		}
	}},
	{"restarts in the middle", func(x *Keeping) {
		for i := range 4 {
			x.k.Poke(x, i)
			x.end()
			x.start()
		}
	}},
	{"changes while nobody looks", func(x *Keeping) {
		x.end()
		for i := range 3 {
			x.k.Poke(x, i)
		}
		x.start()
	}},
	{"watches are lost", func(x *Keeping) {
		x.end()
		set, wire := x.Remote()
		x.remote = &set
		x.start()
		for i := range 3 {
			x.k.Poke(x, i)
			wire.Cut()
		}
	}},
	{"the clock jumps", func(x *Keeping) {
		for i, d := range []time.Duration{time.Hour, -2 * time.Hour, time.Hour} {
			x.Clock.Jump(d)
			x.k.Poke(x, i)
		}
	}},
	{"made again under the same name", func(x *Keeping) {
		for range 3 {
			x.release()
			x.Delete(x.k.Main(), client.PropagationPolicy(metav1.DeletePropagationBackground))
			x.makeAgain()
		}
	}},
}

// quiet: an event costs few writes. The server's own beginnings may write in
// between, and so there is more than one attempt.
func (x *Keeping) quiet() {
	x.T.Helper()
	const attempts, rounds, slack = 5, 6, 4
	var n int
	for range attempts {
		before := x.Revision()
		for i := range rounds {
			x.k.Poke(x, i)
			x.settle("the answer to an event")
		}
		// A poke may be two writes.
		if n = x.Revision() - before; n <= rounds*(2+x.k.Writes)+slack {
			return
		}
	}
	x.T.Errorf("%d writes for %d events", n, rounds)
}
