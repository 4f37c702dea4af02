package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"google.golang.org/protobuf/types/known/structpb"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/managedfields"
	patchtypes "k8s.io/apiserver/pkg/cel/mutation"
	"k8s.io/apiserver/pkg/cel/mutation/dynamic"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"skiff/internal/apiserver/admission/patch"
)

// applyOperations applies the JSON patch that an expression evaluated to. The
// result is nil if one of its tests fails: then nothing is to be changed.
func applyOperations(document []byte, result ref.Val) ([]byte, error) {
	list, ok := result.(traits.Lister)
	if !ok {
		return nil, errors.New("type mismatch: JSONPatchType.expression should evaluate to array")
	}
	var ops []map[string]any
	for it := list.Iterator(); it.HasNext() == types.True; {
		native, err := it.Next().ConvertToNative(reflect.TypeFor[*patchtypes.JSONPatchVal]())
		if err != nil {
			return nil, fmt.Errorf("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch: %w", err)
		}
		op := native.(*patchtypes.JSONPatchVal)
		out := map[string]any{"op": op.Op, "path": op.Path}
		if op.From != "" {
			out["from"] = op.From
		}
		if op.Val != nil {
			if out["value"], err = plain(op.Val); err != nil {
				return nil, err
			}
		}
		ops = append(ops, out)
	}
	if len(ops) == 0 {
		return nil, nil
	}
	data, err := json.Marshal(ops)
	if err != nil {
		return nil, err
	}
	decoded, err := patch.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("JSON Patch: %w", err)
	}
	out, err := decoded.Apply(document)
	switch {
	case errors.Is(err, jsonpatch.ErrTestFailed):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("JSON Patch: %w", err)
	}
	return out, nil
}

// plain returns the JSON value of a CEL value.
func plain(v ref.Val) (any, error) {
	if obj, ok := v.(*dynamic.ObjectVal); ok {
		if err := obj.CheckTypeNamesMatchFieldPathNames(); err != nil {
			return nil, fmt.Errorf("type mismatch: %w", err)
		}
	}
	native, err := v.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	if err != nil {
		return nil, fmt.Errorf("JSONPath valueExpression evaluated to a type that could not marshal to JSON: %w", err)
	}
	return native, nil
}

// applyConfiguration merges the configuration that an expression evaluated to
// into an object, by the rules of server-side apply without owners.
func applyConfiguration(converter managedfields.TypeConverter, object map[string]any, result ref.Val) (map[string]any, error) {
	configuration, ok := result.(*dynamic.ObjectVal)
	if !ok {
		return nil, fmt.Errorf("unsupported return type from ApplyConfiguration expression: %v", result.Type())
	}
	if err := configuration.CheckTypeNamesMatchFieldPathNames(); err != nil {
		return nil, fmt.Errorf("type mismatch: %w", err)
	}
	content, ok := configuration.Value().(map[string]any)
	if !ok {
		return nil, fmt.Errorf("invalid return type: %T", configuration.Value())
	}
	live, applied := &unstructured.Unstructured{Object: object}, &unstructured.Unstructured{Object: content}
	applied.SetGroupVersionKind(live.GroupVersionKind())
	change, err := converter.ObjectToTyped(applied)
	if err != nil {
		return nil, fmt.Errorf("error applying patch: failed to convert patch object to typed object: %w", err)
	}
	if atomics := findAtomics(nil, change.Schema(), change.TypeRef(), change.AsValue()); len(atomics) > 0 {
		return nil, fmt.Errorf("error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: %v", strings.Join(atomics, ", "))
	}
	have, err := converter.ObjectToTyped(live, typed.AllowDuplicates)
	if err != nil {
		return nil, fmt.Errorf("error applying patch: failed to convert original object to typed object: %w", err)
	}
	merged, err := have.Merge(change)
	if err != nil {
		return nil, fmt.Errorf("error applying patch: failed to merge patch: %w", err)
	}
	out, ok := merged.AsValue().Unstructured().(map[string]any)
	if !ok {
		return nil, errors.New("error applying patch: the result is no object")
	}
	return out, nil
}

// findAtomics returns the paths in v of what is replaced as a whole. Who sets
// some fields of such a thing would remove its others without meaning to.
func findAtomics(path fieldpath.Path, s *schema.Schema, t schema.TypeRef, v value.Value) []string {
	a, ok := s.Resolve(t)
	if !ok {
		return nil
	}
	var found []string
	switch {
	case v.IsMap() && a.Map != nil:
		if a.Map.ElementRelationship == schema.Atomic {
			found = append(found, path.String())
		}
		v.AsMap().Iterate(func(key string, field value.Value) bool {
			t := a.Map.ElementType
			if f, ok := a.Map.FindField(key); ok {
				t = f.Type
			}
			found = append(found, findAtomics(append(path.Copy(), fieldpath.PathElement{FieldName: &key}), s, t, field)...)
			return true
		})
	case v.IsList() && a.List != nil:
		if a.List.ElementRelationship == schema.Atomic {
			found = append(found, path.String())
		}
		list := v.AsList()
		for i := range list.Length() {
			found = append(found, findAtomics(append(path.Copy(), fieldpath.PathElement{Index: &i}), s, a.List.ElementType, list.At(i))...)
		}
	}
	return found
}
