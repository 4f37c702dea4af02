package inprocess

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apis"
	"skiff/internal/apiserver/verbs"
	"skiff/internal/store/cache"
)

// shape is the form in which a caller wants objects.
type shape int

const (
	typed shape = iota
	untyped
	metadataOnly
)

func shapeOf(obj runtime.Object) shape {
	switch obj.(type) {
	case *metav1.PartialObjectMetadata, *metav1.PartialObjectMetadataList:
		return metadataOnly
	case runtime.Unstructured:
		return untyped
	}
	return typed
}

// shared returns the object in e in the version and shape; a typed hub object
// is the cached one itself.
func shared(ctx context.Context, e *cache.Entry, v *verbs.Version, s shape) (client.Object, error) {
	obj, err := e.Object()
	if err != nil {
		return nil, err
	}
	if s != metadataOnly {
		if obj, err = v.Object(ctx, e); err != nil {
			return nil, err
		}
	}
	switch s {
	case metadataOnly:
		p := &metav1.PartialObjectMetadata{}
		if a, ok := obj.(metav1.ObjectMetaAccessor); ok {
			if m, ok := a.GetObjectMeta().(*metav1.ObjectMeta); ok {
				p.ObjectMeta = *m
				p.SetGroupVersionKind(v.GVK())
				return p, nil
			}
		}
		data, err := json.Marshal(obj)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, p); err != nil {
			return nil, err
		}
		p.SetGroupVersionKind(v.GVK())
		return p, nil
	case untyped:
		if u, ok := obj.(*unstructured.Unstructured); ok {
			return u, nil
		}
		m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
		if err != nil {
			return nil, err
		}
		u := &unstructured.Unstructured{Object: m}
		u.SetGroupVersionKind(v.GVK())
		return u, nil
	}
	return obj, nil
}

// give puts the object in e into what the caller handed in: a copy, unless
// aliasing lets it share what the object refers to.
func give(ctx context.Context, e *cache.Entry, v *verbs.Version, into client.Object, aliasing bool) error {
	obj, err := shared(ctx, e, v, shapeOf(into))
	if err != nil {
		return err
	}
	from := runtime.Object(obj)
	if !aliasing {
		from = obj.DeepCopyObject()
	}
	return assign(from, into)
}

// assign sets *into to *from.
func assign(from, into runtime.Object) error {
	src, dst := reflect.ValueOf(from), reflect.ValueOf(into)
	if src.Type() != dst.Type() {
		return fmt.Errorf("a %T cannot be read into a %T", from, into)
	}
	dst.Elem().Set(src.Elem())
	return nil
}

// take makes a private object of the version from what the caller handed in.
func take(obj client.Object, v *verbs.Version) (apis.Object, error) {
	in := v.Version.New()
	switch o := obj.(type) {
	case *unstructured.Unstructured:
		if _, custom := in.(*unstructured.Unstructured); custom {
			return o.DeepCopy(), nil
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, in); err != nil {
			return nil, err
		}
	case *metav1.PartialObjectMetadata:
		return nil, fmt.Errorf("a PartialObjectMetadata can only be read, patched or deleted")
	default:
		in = obj.DeepCopyObject().(apis.Object)
	}
	return in, nil
}

// giveList fills the caller's list.
func giveList(ctx context.Context, res *verbs.ListResult, v *verbs.Version, list client.ObjectList, aliasing bool) error {
	s := shapeOf(list)
	if s != metadataOnly {
		if err := v.Prepare(ctx, res.Entries); err != nil {
			return err
		}
	}
	list.SetResourceVersion(strconv.FormatInt(res.Revision, 10))
	list.SetContinue(res.Continue)
	list.SetRemainingItemCount(res.Remaining)
	if u, ok := list.(*unstructured.UnstructuredList); ok {
		u.Items = make([]unstructured.Unstructured, 0, len(res.Entries))
		for _, e := range res.Entries {
			obj, err := shared(ctx, e, v, s)
			if err != nil {
				return err
			}
			u.Items = append(u.Items, *obj.(*unstructured.Unstructured).DeepCopy())
		}
		return nil
	}
	items, err := meta.GetItemsPtr(list)
	if err != nil {
		return err
	}
	slice := reflect.ValueOf(items).Elem()
	out := reflect.MakeSlice(slice.Type(), len(res.Entries), len(res.Entries))
	for i, e := range res.Entries {
		obj, err := shared(ctx, e, v, s)
		if err != nil {
			return err
		}
		src := runtime.Object(obj)
		if !aliasing {
			src = obj.DeepCopyObject()
		}
		if slice.Type().Elem().Kind() == reflect.Pointer {
			out.Index(i).Set(reflect.ValueOf(src))
		} else {
			out.Index(i).Set(reflect.ValueOf(src).Elem())
		}
	}
	slice.Set(out)
	return nil
}

func (c *inProcess) apply(ctx context.Context, sub string, config runtime.ApplyConfiguration, o *client.ApplyOptions) error {
	data, err := json.Marshal(config)
	if err != nil {
		return err
	}
	target := &unstructured.Unstructured{}
	if err := target.UnmarshalJSON(data); err != nil {
		return err
	}
	po := o.AsPatchOptions()
	if err := c.patch(ctx, sub, target, client.RawPatch(types.ApplyPatchType, data), po); err != nil {
		return err
	}
	data, err = json.Marshal(target)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, config)
}

// stream is a verbs watch as client-go's interface.
type stream struct {
	result chan watch.Event
	cancel context.CancelFunc
}

func (s *stream) Stop()                          { s.cancel() }
func (s *stream) ResultChan() <-chan watch.Event { return s.result }

func startWatch(ctx context.Context, w *verbs.Watch, v *verbs.Version, list client.ObjectList) watch.Interface {
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{result: make(chan watch.Event), cancel: cancel}
	go func() {
		defer close(s.result)
		defer w.Stop()
		for {
			events, err := w.Next(ctx)
			if err != nil {
				return
			}
			for _, ev := range events {
				out := watch.Event{Type: ev.Type}
				if ev.Entry == nil {
					obj := v.Version.New()
					obj.SetResourceVersion(strconv.FormatInt(ev.Revision, 10))
					if ev.InitialEventsEnd {
						obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
					}
					out.Object = obj
				} else {
					obj, err := shared(ctx, ev.Entry, v, shapeOf(list))
					if err != nil {
						return
					}
					out.Object = obj.DeepCopyObject()
				}
				select {
				case s.result <- out:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return s
}
