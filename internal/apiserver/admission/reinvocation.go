package admission

import (
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
)

// reinvocation is the second round of the mutating plug-ins, which sees what
// later plug-ins of the first round changed. There is no third.
type reinvocation struct {
	wanted, under bool
	rounds        map[any]*Rounds
}

// Rounds is what a plug-in that asks several others (webhooks, policies) knows
// of them over both rounds.
type Rounds struct {
	a *Attributes
	// asked want to be asked again if something changes after them; stale are
	// those after whom something did.
	asked, stale map[string]bool
	// output is the object when the plug-in was done with it.
	output runtime.Object
}

// Rounds begins a plug-in's round; plugin tells the plug-ins apart.
func (a *Attributes) Rounds(plugin any) *Rounds {
	r := a.reinvocation.rounds[plugin]
	if r == nil {
		r = &Rounds{a: a, asked: map[string]bool{}, stale: map[string]bool{}}
		if a.reinvocation.rounds == nil {
			a.reinvocation.rounds = map[any]*Rounds{}
		}
		a.reinvocation.rounds[plugin] = r
	} else if !equality.Semantic.DeepEqual(r.output, a.Object) {
		r.outdate()
	}
	return r
}

func (r *Rounds) outdate() {
	for id := range r.asked {
		r.stale[id] = true
	}
	clear(r.asked)
}

// Number is 0 in the first round and 1 in the second.
func (r *Rounds) Number() int {
	if r.a.reinvocation.under {
		return 1
	}
	return 0
}

// Skips reports whether id is not to be asked in this round: in the second
// only those are who were asked in the first and are not up to date.
func (r *Rounds) Skips(id string) bool { return r.a.reinvocation.under && !r.stale[id] }

// Changed tells that the object was changed: a second round is needed.
func (r *Rounds) Changed() {
	r.outdate()
	r.a.reinvocation.wanted = true
}

// Asked tells that id was asked and wants to know of later changes.
func (r *Rounds) Asked(id string) { r.asked[id] = true }

// Done ends the plug-in's part of a round.
func (r *Rounds) Done() {
	if len(r.asked)+len(r.stale) > 0 && r.a.Object != nil {
		r.output = r.a.Object.DeepCopyObject()
	}
}
