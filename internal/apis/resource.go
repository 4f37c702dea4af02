// Package apis defines what a declaration of an API resource is. Everything
// that Skiff knows about a resource stands in one declaration, a value of
// type Of made in one file of a folder below (core, apps, batch …); the API
// server is generic over them, and a CustomResourceDefinition becomes the same
// kind of value at run time.
//
// A declaration holds pure functions over the hub type, which is upstream's
// external type in its storage version. Functions may change the object they
// are told to change and nothing else; they see no storage and no clock of
// their own.
package apis

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Object is an API object: metadata plus a runtime type.
type Object interface {
	metav1.Object
	runtime.Object
}

// Resource is the untyped form of a declaration, which the generic API server
// reads. It is made by Of.Resource (or by hand for custom resources) and never
// changed afterwards. Function fields that are nil mean the default that is
// said at the field.
type Resource struct {
	Names
	// Hub is the version that validation and storage work in.
	Hub Version
	// Other are further served versions, converted at the edge.
	Other []Version
	// Prefix is the storage key's first part, upstream's, e.g. /registry/pods.
	// A key is <Prefix>/<namespace>/<name>, or <Prefix>/<name>.
	Prefix string
	// Verbs are the served verbs of a resource that is stored, in order of
	// their names; nil means all of StandardVerbs.
	Verbs []string

	Default       func(obj Object)
	PrepareCreate func(ctx context.Context, obj Object)
	// PrepareUpdate runs after the generic rules (status taken from old,
	// metadata system fields kept) and before the generation is counted.
	PrepareUpdate func(ctx context.Context, obj, old Object)
	// Validate checks all but metadata, on create and, where ValidateUpdate is
	// nil, on update.
	Validate func(ctx context.Context, obj Object) field.ErrorList
	// ValidateUpdate alone decides on an update: it contains as much of
	// Validate as holds for objects that exist.
	ValidateUpdate func(ctx context.Context, obj, old Object) field.ErrorList
	// MetadataOnUpdate and MetadataOnStatusUpdate are the checks of an update's
	// metadata that follow the check that all resources have in common; nil is
	// AsChanged. They show in causes that are said again, and in what is asked
	// of finalizers and generateName.
	MetadataOnUpdate       []MetadataCheck
	MetadataOnStatusUpdate []MetadataCheck
	// ValidateName checks metadata.name (prefix=true: generateName). Nil means
	// DNS subdomain.
	ValidateName func(name string, prefix bool) []string
	// Warnings are sent as HTTP warning headers with a successful write; old
	// is nil on create.
	Warnings func(ctx context.Context, obj, old Object) []string

	// HasStatus serves .../status and separates it from the rest: an ordinary
	// write keeps the old status (on create: clears it), a write to /status
	// keeps everything but metadata's user fields and the status.
	HasStatus            bool
	PrepareStatusUpdate  func(ctx context.Context, obj, old Object)
	ValidateStatusUpdate func(ctx context.Context, obj, old Object) field.ErrorList
	// Discard takes from an object what this server knows but has no use for;
	// old is nil on create. It runs after the generation was counted.
	Discard func(ctx context.Context, obj, old Object)
	// Reset are further fields, by path, that writes to a subresource ("" for
	// the object itself) leave as they were, whatever is written: their writer
	// does not come to own them.
	Reset map[string][]string
	// KeepStatusOnCreate stores the status that a create brings.
	KeepStatusOnCreate bool
	// Generation counts metadata.generation: 1 on create, +1 with each change
	// outside metadata and status.
	Generation bool
	// NewGeneration reports further changes that count. Without Generation it
	// counts alone, from 0.
	NewGeneration func(obj, old Object) bool
	// AllowCreateOnUpdate lets PUT make an object that does not exist.
	AllowCreateOnUpdate bool
	// RequireResourceVersion refuses updates without metadata.resourceVersion.
	RequireResourceVersion bool
	// Large objects are kept in their stored form alone while nobody reads them.
	Large bool
	// GracePeriod returns the grace period in seconds for a delete with the
	// given wish (nil: none said). A positive result makes the deletion
	// graceful: the object stays with deletionTimestamp until it is deleted
	// again with 0. Nil: deletion is immediate.
	GracePeriod func(obj Object, wish *int64) int64
	// BeforeDelete is called on a copy of the object when its deletion begins,
	// and may change it (a namespace's phase). It returns true if the object
	// must stay because a finalization of its own, apart from
	// metadata.finalizers, is not over. An object that stayed is removed by the
	// first update after which deletionTimestamp is set, metadata.finalizers is
	// empty and BeforeDelete returns false. Nil: nothing keeps the object.
	BeforeDelete func(obj Object) (keep bool)
	// Permanent says why the object cannot be deleted, nothing if it can.
	Permanent func(obj Object) string
	// ReturnDeleted answers a deletion with the object instead of a Status.
	ReturnDeleted bool
	// DefaultPropagation is the propagation policy when a delete says none:
	// Background unless set (upstream orphans for a few old versions).
	DefaultPropagation metav1.DeletionPropagation
	// TTL in seconds after which the store removes the object (events).
	TTL func(obj Object) int64

	// Columns and Cells make the Table form: Cells returns one value for each
	// column. Nil means Name and Age (Created At).
	Columns []metav1.TableColumnDefinition
	Cells   func(obj Object) []any
	// Fields are the selectable fields beyond metadata.name and
	// metadata.namespace, by path.
	Fields map[string]func(obj Object) string

	Scale        *Scale
	Subresources []Subresource
	// Virtual resources are not stored: Create answers a posted object (the
	// reviews). List and Get, when set, make objects up (componentstatuses).
	Virtual *Virtual

	// Custom is set for resources whose objects have no Go type.
	Custom *Custom
}

// MetadataCheck is a way to check the metadata of an update.
type MetadataCheck int

const (
	// AsChanged compares it with what it was.
	AsChanged MetadataCheck = iota
	// AsNew checks it as that of a new object.
	AsNew
)

// Custom is what there is to say of custom resources. Their objects are
// unstructured and carry their version. Each request works in its own version:
// functions of the declaration get objects of any version and go by their
// apiVersion. The hub is only the version in which they are stored.
type Custom struct {
	// ID changes whenever the definition says something else.
	ID string
	// Convert returns the objects, which are shared, in the version.
	Convert func(ctx context.Context, objs []Object, version string) ([]Object, error)
	// Decode reads an object in whatever version it was stored.
	Decode func(value []byte) (Object, error)
	// Terminating reports whether the definition is being deleted.
	Terminating func() bool
	// Creating is called before an object is created, and done when it is
	// stored. It is refused while the definition is being deleted.
	Creating func() (done func(), ok bool)
	// Types describes the fields of every version to server-side apply.
	Types func() (managedfields.TypeConverter, error)
}

// Names are a resource's names as discovery shows them.
type Names struct {
	Group    string
	Resource string // plural, lower case
	Singular string
	Kind     string
	// ListKind is Kind+"List" unless set.
	ListKind   string
	ShortNames []string
	Categories []string
	Namespaced bool
}

// ServedVerbs are the verbs of the resource itself, in order of their names.
func (r *Resource) ServedVerbs() []string {
	switch {
	case r.Virtual != nil:
		return r.Virtual.verbs()
	case r.Verbs != nil:
		return r.Verbs
	}
	return StandardVerbs
}

// Serves reports whether the verb is one of ServedVerbs.
func (r *Resource) Serves(verb string) bool { return slices.Contains(r.ServedVerbs(), verb) }

// StandardVerbs are what a stored resource serves unless it says otherwise.
var StandardVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// EditVerbs are what a subresource that changes its parent serves unless it says
// otherwise.
var EditVerbs = []string{"get", "patch", "update"}

// GroupResource returns the group and plural.
func (n *Names) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: n.Group, Resource: n.Resource}
}

// GroupKind returns the group and kind of the hub type.
func (n *Names) GroupKind() schema.GroupKind { return schema.GroupKind{Group: n.Group, Kind: n.Kind} }

// Version is one served version of a resource.
type Version struct {
	// Group differs from the resource's only for resources that are served in
	// two groups (events).
	Group, Version, Kind string
	New                  func() Object
	NewList              func() runtime.Object
	// ToHub and FromHub convert. The hub itself has no FromHub, and a ToHub only
	// if there is something to refuse that cannot be read.
	ToHub   func(obj Object) (Object, error)
	FromHub func(hub Object) (Object, error)
	// Default fills defaults of this version before conversion; nil where the
	// hub's defaulting does all.
	Default func(obj Object)
	// Validate checks what holds only for writes of whole objects made in this
	// version, on the hub form and on top of the resource's validation; old is
	// nil on create.
	Validate func(ctx context.Context, hub, old Object) field.ErrorList
	// Columns and Cells override the resource's for this version.
	Columns []metav1.TableColumnDefinition
	Cells   func(obj Object) []any
	// Fields are selectable fields of objects in this version, by path.
	Fields map[string]func(obj Object) string
	// FieldNames maps this version's names of selectable fields to the
	// resource's; others cannot be selected by. Nil: the names are the same.
	FieldNames map[string]string
	// Without are subresources (status, scale) that this version lacks though
	// others have them.
	Without []string
	// Unserved versions are only stored.
	Unserved bool
	// Gate is the feature without which the version is not served; "" is none.
	Gate string
	// Off versions are there for the server's own parts, not for its clients.
	Off bool
	// Warning is sent with every answer in this version.
	Warning string
	// Prune drops from a posted object what the version's schema does not know
	// and returns the paths of what it dropped. Nil keeps everything.
	Prune func(obj Object) (unknown []string, err error)
	// Schema describes the version's objects for publication where there is no
	// Go type to read it off: for OpenAPI v2, which can say less, or v3.
	Schema func(v2 bool) *spec.Schema
}

// GVK returns the version's group, version and kind.
func (v *Version) GVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: v.Group, Version: v.Version, Kind: v.Kind}
}

// GroupVersion returns the version's group and version.
func (v *Version) GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: v.Group, Version: v.Version}
}

// Scale is how the scale subresource reads and writes the parent.
type Scale struct {
	Replicas       func(obj Object) int32
	SetReplicas    func(obj Object, n int32)
	StatusReplicas func(obj Object) int32
	// Selector returns the label selector as a string.
	Selector func(obj Object) string
	// Unset returns where objects of a custom resource should say how many
	// replicas they want, if obj does not. The others always do.
	Unset func(obj Object) (path string, unset bool)
	// ReplicasPaths is where SetReplicas writes, for each version, served or
	// not: nothing for those without the subresource. nil means spec.replicas.
	ReplicasPaths map[string][]string
}

// Subresource is one more path below an object. Exactly one of the groups of
// functions is set: Prepare for a view that changes the parent, Create for an
// action, neither for one that is served elsewhere (exec, log, proxy …), which
// then only appears in discovery with its Verbs.
type Subresource struct {
	Name string
	// Kind is the type it speaks; the zero value means the parent's.
	Kind schema.GroupVersionKind
	// OldVersions are further versions of Kind in which an action is taken,
	// with the same fields.
	OldVersions []string
	// New makes what is posted, or the options of what is served elsewhere.
	New   func() runtime.Object
	Verbs []string // of get, update, patch, create

	// Prepare takes back from obj, the whole new parent, what may not be changed
	// in this way. Otherwise this is an update like any other.
	Prepare  func(ctx context.Context, obj, old Object)
	Validate func(ctx context.Context, obj, old Object) field.ErrorList

	// Create carries out the posted body against the object of that name and
	// returns the answer.
	Create func(ctx context.Context, s Storage, namespace, name string, body runtime.Object, dryRun bool) (runtime.Object, error)
}

// Storage is what an action may do. Errors are API errors.
type Storage interface {
	Get(ctx context.Context, r schema.GroupResource, namespace, name string) (Object, error)
	// List calls yield with every object in the namespace until it returns
	// false. Objects are shared: they must not be changed.
	List(ctx context.Context, r schema.GroupResource, namespace string, yield func(Object) bool) error
	Create(ctx context.Context, r schema.GroupResource, obj Object, dryRun bool) (Object, error)
	// Update applies change to a copy of the newest object and stores it,
	// retrying when someone else was faster. An action is a declared way around
	// the resource's update rules (a binding sets spec.nodeName, an eviction a
	// budget's status), so they are not applied: change may touch everything
	// but metadata's system fields, and its own checks are all there are.
	Update(ctx context.Context, r schema.GroupResource, namespace, name string, dryRun bool, change func(Object) error) (Object, error)
	Delete(ctx context.Context, r schema.GroupResource, namespace, name string, o *metav1.DeleteOptions) error
}

// Virtual answers requests for resources that are not stored.
type Virtual struct {
	Create func(ctx context.Context, s Storage, namespace string, obj Object, dryRun bool) (runtime.Object, error)
	Get    func(ctx context.Context, namespace, name string) (Object, error)
	List   func(ctx context.Context, namespace string) ([]Object, error)
}

func (v *Virtual) verbs() (all []string) {
	if v.Create != nil {
		all = append(all, "create")
	}
	if v.Get != nil {
		all = append(all, "get")
	}
	if v.List != nil {
		all = append(all, "list")
	}
	return all
}

// Of is a declaration over the hub type T (a pointer, e.g. *corev1.Pod). Its
// fields mean what they mean in Resource.
type Of[T Object] struct {
	Names
	Version string
	Gate    string // of the hub
	New     func() T
	NewList func() runtime.Object
	Other   []Version
	Prefix  string
	Verbs   []string

	Default                func(obj T)
	PrepareCreate          func(ctx context.Context, obj T)
	PrepareUpdate          func(ctx context.Context, obj, old T)
	Validate               func(ctx context.Context, obj T) field.ErrorList
	ValidateUpdate         func(ctx context.Context, obj, old T) field.ErrorList
	MetadataOnUpdate       []MetadataCheck
	MetadataOnStatusUpdate []MetadataCheck
	ValidateName           func(name string, prefix bool) []string
	Warnings               func(ctx context.Context, obj, old T) []string
	HasStatus              bool
	PrepareStatusUpdate    func(ctx context.Context, obj, old T)
	ValidateStatusUpdate   func(ctx context.Context, obj, old T) field.ErrorList
	Discard                func(ctx context.Context, obj, old T)
	Reset                  map[string][]string
	KeepStatusOnCreate     bool
	Generation             bool
	NewGeneration          func(obj, old T) bool
	AllowCreateOnUpdate    bool
	RequireResourceVersion bool
	Large                  bool
	GracePeriod            func(obj T, wish *int64) int64
	BeforeDelete           func(obj T) (keep bool)
	Permanent              func(obj T) string
	ReturnDeleted          bool
	DefaultPropagation     metav1.DeletionPropagation
	TTL                    func(obj T) int64
	Columns                []metav1.TableColumnDefinition
	Cells                  func(obj T) []any
	Fields                 map[string]func(obj T) string
	Scale                  *Scale
	Subresources           []Subresource
	Virtual                *Virtual
}

// Resource returns the untyped form.
func (d Of[T]) Resource() *Resource {
	r := &Resource{
		Names:                  d.Names,
		Other:                  d.Other,
		Prefix:                 d.Prefix,
		Verbs:                  d.Verbs,
		Default:                lift(d.Default),
		PrepareCreate:          liftCtx(d.PrepareCreate),
		PrepareUpdate:          liftChange(d.PrepareUpdate),
		Validate:               askCtx(d.Validate),
		ValidateUpdate:         askChange(d.ValidateUpdate),
		MetadataOnUpdate:       d.MetadataOnUpdate,
		MetadataOnStatusUpdate: d.MetadataOnStatusUpdate,
		ValidateName:           d.ValidateName,
		Warnings:               askChange(d.Warnings),
		HasStatus:              d.HasStatus,
		PrepareStatusUpdate:    liftChange(d.PrepareStatusUpdate),
		ValidateStatusUpdate:   askChange(d.ValidateStatusUpdate),
		Discard:                liftChange(d.Discard),
		Reset:                  d.Reset,
		KeepStatusOnCreate:     d.KeepStatusOnCreate,
		Generation:             d.Generation,
		AllowCreateOnUpdate:    d.AllowCreateOnUpdate,
		RequireResourceVersion: d.RequireResourceVersion,
		Large:                  d.Large,
		BeforeDelete:           ask(d.BeforeDelete),
		Permanent:              ask(d.Permanent),
		ReturnDeleted:          d.ReturnDeleted,
		DefaultPropagation:     d.DefaultPropagation,
		TTL:                    ask(d.TTL),
		Columns:                d.Columns,
		Cells:                  ask(d.Cells),
		Scale:                  d.Scale,
		Subresources:           d.Subresources,
		Virtual:                d.Virtual,
	}
	if r.ListKind == "" {
		r.ListKind = r.Kind + "List"
	}
	if r.Singular == "" {
		panic(fmt.Sprintf("declaration of %s has no singular name", r.Resource))
	}
	r.Hub = Version{
		Group: d.Group, Version: d.Version, Kind: d.Kind,
		New: func() Object { return d.New() }, NewList: d.NewList, Gate: d.Gate,
	}
	if r.Prefix == "" {
		r.Prefix = "/registry/" + d.Names.Resource
	}
	if f := d.NewGeneration; f != nil {
		r.NewGeneration = func(o, old Object) bool { return f(o.(T), old.(T)) }
	}
	if f := d.GracePeriod; f != nil {
		r.GracePeriod = func(o Object, wish *int64) int64 { return f(o.(T), wish) }
	}
	if len(d.Fields) > 0 {
		r.Fields = make(map[string]func(Object) string, len(d.Fields))
		for path, f := range d.Fields {
			r.Fields[path] = ask(f)
		}
	}
	return r
}

// The functions below make of one over T one over any object; nil stays nil.

func lift[T Object](f func(T)) func(Object) {
	if f == nil {
		return nil
	}
	return func(o Object) { f(o.(T)) }
}

func ask[T Object, R any](f func(T) R) func(Object) R {
	if f == nil {
		return nil
	}
	return func(o Object) R { return f(o.(T)) }
}

func liftCtx[T Object](f func(context.Context, T)) func(context.Context, Object) {
	if f == nil {
		return nil
	}
	return func(ctx context.Context, o Object) { f(ctx, o.(T)) }
}

func askCtx[T Object, R any](f func(context.Context, T) R) func(context.Context, Object) R {
	if f == nil {
		return nil
	}
	return func(ctx context.Context, o Object) R { return f(ctx, o.(T)) }
}

func liftChange[T Object](f func(context.Context, T, T)) func(context.Context, Object, Object) {
	if f == nil {
		return nil
	}
	return func(ctx context.Context, o, old Object) { f(ctx, o.(T), before[T](old)) }
}

func askChange[T Object, R any](f func(context.Context, T, T) R) func(context.Context, Object, Object) R {
	if f == nil {
		return nil
	}
	return func(ctx context.Context, o, old Object) R { return f(ctx, o.(T), before[T](old)) }
}

// before is the old object of a change, nil on create.
func before[T Object](old Object) (typed T) {
	if old != nil {
		typed = old.(T)
	}
	return typed
}
