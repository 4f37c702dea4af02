// Package admission is the last say over a write: plug-ins first change the
// object (Mutator), then, after validation, may refuse it (Validator). Each
// plug-in has a folder of its own below; the order is upstream's recommended
// one and stands in one list in the package that puts the server together.
package admission

import (
	"context"
	"iter"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apis"
	"skiff/internal/identity"
)

// Operation is the kind of write, in the words of AdmissionReview.
type Operation string

// The operations.
const (
	Create  Operation = "CREATE"
	Update  Operation = "UPDATE"
	Delete  Operation = "DELETE"
	Connect Operation = "CONNECT"
)

// Attributes describe one write. Plug-ins may change Object in place while
// mutating and nothing else.
type Attributes struct {
	Operation Operation
	Resource  *apis.Resource
	// Version is the version of the resource that the request is made in.
	Version     *apis.Version
	Subresource string
	Namespace   string
	Name        string
	// Collective tells that the object is one of a collection that is deleted:
	// the request names none.
	Collective bool
	// Object is the new object (nil for Delete); for a subresource with a type
	// of its own (Binding, Eviction, Scale …) that type.
	Object runtime.Object
	// Old is the stored object (nil for Create).
	Old     runtime.Object
	Options runtime.Object
	DryRun  bool
	User    *identity.User
	// Warn adds a warning header to the response.
	Warn func(text string)
	// Annotate adds to the request's audit event. What begins with
	// PatchAnnotation tells the object's content, and must be kept only where
	// that is.
	Annotate func(key, value string)
	// Codec knows the resource's versions. It is nil for objects of
	// subresources that have a type of their own.
	Codec Codec

	reinvocation reinvocation
}

// PatchAnnotation begins the keys of annotations that tell changes of objects.
const PatchAnnotation = "patch."

// Codec converts objects between the form that plug-ins see, that of
// Attributes.Object, and the versions of the resource.
type Codec interface {
	// As returns obj in version v; the result may be obj itself.
	As(ctx context.Context, obj apis.Object, v *apis.Version) (apis.Object, error)
	// Read makes an object of its JSON form in version v. It has its defaults
	// and is in the form that plug-ins see. If strict is set, fields that a
	// built-in type lacks are an error.
	Read(ctx context.Context, data []byte, v *apis.Version, strict bool) (apis.Object, error)
}

// Mutator changes an object before it is validated. Errors should be
// *errors.StatusError (mostly Forbidden).
type Mutator interface {
	Mutate(ctx context.Context, a *Attributes) error
}

// Completer fills in what must not be shared with other objects, when the
// object has its name and no Mutator changes it any more. undo is called when
// the object is certainly not stored; what it takes back is free again.
type Completer interface {
	Complete(ctx context.Context, a *Attributes) (undo func(), err error)
}

// Validator refuses an object after all changes are made.
type Validator interface {
	Validate(ctx context.Context, a *Attributes) error
}

// Accountant keeps account of what is stored. It is asked last, when nobody
// else refuses the write any more, and may refuse it. What it returns is stored
// in one transaction with the object, if it still has the resource version that
// it was read at; otherwise the accountant is asked again. done is called when
// the attempt is over.
type Accountant interface {
	Account(ctx context.Context, a *Attributes) (entries []Entry, done func(), err error)
}

// Entry is a changed object of an account; one without a resource version is
// new.
type Entry struct {
	Resource schema.GroupResource
	Object   apis.Object
}

// Chain runs plug-ins in order; an element may be one or several of Mutator,
// Completer, Validator and Accountant, or Timed.
type Chain []any

// Timed is a plug-in whose time is taken.
type Timed struct {
	Plugin any
	Timer  *Timer
}

// Mutate implements Mutator. When a plug-in asks for it, all of them run a
// second time.
func (c Chain) Mutate(ctx context.Context, a *Attributes) error {
	if err := c.mutate(ctx, a); err != nil || !a.reinvocation.wanted {
		return err
	}
	defer func() { a.reinvocation = reinvocation{} }()
	a.reinvocation.under = true
	return c.mutate(ctx, a)
}

func (c Chain) mutate(ctx context.Context, a *Attributes) error {
	watch := stopwatch{step: admit, a: a}
	for plugin, timer := range each[Mutator](c) {
		watch.start(timer)
		err := plugin.Mutate(ctx, a)
		watch.stop(timer, err)
		if err != nil {
			return err
		}
	}
	return nil
}

// each yields the plug-ins that are a P, and the timers of those that have one.
func each[P any](c Chain) iter.Seq2[P, *Timer] {
	return func(yield func(P, *Timer) bool) {
		for _, plugin := range c {
			var timer *Timer
			if t, ok := plugin.(*Timed); ok {
				plugin, timer = t.Plugin, t.Timer
			}
			if p, ok := plugin.(P); ok && !yield(p, timer) {
				return
			}
		}
	}
}

// Validate implements Validator.
func (c Chain) Validate(ctx context.Context, a *Attributes) error {
	watch := stopwatch{step: validate, a: a}
	for plugin, timer := range each[Validator](c) {
		watch.start(timer)
		err := plugin.Validate(ctx, a)
		watch.stop(timer, err)
		if err != nil {
			return err
		}
	}
	return nil
}

// Complete implements Completer.
func (c Chain) Complete(ctx context.Context, a *Attributes) (undo func(), err error) {
	var undos calls
	for plugin := range each[Completer](c) {
		f, err := plugin.Complete(ctx, a)
		if err != nil {
			undos.all()
			return nil, err
		}
		undos = append(undos, f)
	}
	return undos.all, nil
}

// Account implements Accountant.
func (c Chain) Account(ctx context.Context, a *Attributes) (entries []Entry, done func(), err error) {
	var dones calls
	for plugin := range each[Accountant](c) {
		more, f, err := plugin.Account(ctx, a)
		if err != nil {
			dones.all()
			return nil, nil, err
		}
		entries, dones = append(entries, more...), append(dones, f)
	}
	return entries, dones.all, nil
}

// calls are functions of plug-ins for when an attempt is over.
type calls []func()

func (c calls) all() {
	for _, f := range c {
		f()
	}
}
