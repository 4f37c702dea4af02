// Package checkstest helps tests of resource declarations.
package checkstest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"skiff/internal/apis"
)

// Find returns the declaration of a resource by its plural.
func Find(t *testing.T, all []*apis.Resource, plural string) *apis.Resource {
	t.Helper()
	for _, r := range all {
		if r.Resource == plural {
			return r
		}
	}
	t.Fatalf("no declaration of %s", plural)
	return nil
}

// Parse reads an object of r from YAML and fills in its defaults.
func Parse[T apis.Object](t *testing.T, r *apis.Resource, text string) T {
	t.Helper()
	obj := r.Hub.New()
	if err := yaml.UnmarshalStrict([]byte(text), obj); err != nil {
		t.Fatal(err)
	}
	if r.Default != nil {
		r.Default(obj)
	}
	return obj.(T)
}

// Errors compares errors, each as "path: Type: detail", in any order.
func Errors(t *testing.T, got field.ErrorList, want ...string) {
	t.Helper()
	sorted := slices.SortedStableFunc(slices.Values(got), func(a, b *field.Error) int { return strings.Compare(text(a), text(b)) })
	slices.Sort(want)
	InOrder(t, sorted, want...)
}

// InOrder is Errors for errors whose order matters.
func InOrder(t *testing.T, got field.ErrorList, want ...string) {
	t.Helper()
	var texts []string
	for _, e := range got {
		texts = append(texts, text(e))
	}
	if !slices.Equal(texts, want) {
		t.Errorf("got errors\n\t%s\nwant\n\t%s", strings.Join(texts, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func text(e *field.Error) string { return fmt.Sprintf("%s: %s: %s", e.Field, e.Type, e.Detail) }

// Case is one change of a valid object and the errors it must lead to.
type Case[T apis.Object] struct {
	Name   string
	Change func(obj T)
	Want   []string
}

// Change returns a case.
func Change[T apis.Object](name string, change func(obj T), want ...string) Case[T] {
	return Case[T]{Name: name, Change: change, Want: want}
}

// Create runs cases against the validation of new objects. The unchanged
// object must be valid.
func Create[T apis.Object](t *testing.T, r *apis.Resource, valid T, cases ...Case[T]) {
	t.Helper()
	Errors(t, r.Validate(context.Background(), valid))
	for _, c := range cases {
		t.Run("create/"+c.Name, func(t *testing.T) {
			obj := valid.DeepCopyObject().(T)
			c.Change(obj)
			Errors(t, r.Validate(context.Background(), obj), c.Want...)
		})
	}
}

// Update runs cases against the validation of updates of old.
func Update[T apis.Object](t *testing.T, r *apis.Resource, old T, cases ...Case[T]) {
	t.Helper()
	for _, c := range cases {
		t.Run("update/"+c.Name, func(t *testing.T) {
			obj := old.DeepCopyObject().(T)
			c.Change(obj)
			Errors(t, r.ValidateUpdate(context.Background(), obj, old), c.Want...)
		})
	}
}

// UpdateStatus runs cases against the validation of status updates of old.
func UpdateStatus[T apis.Object](t *testing.T, r *apis.Resource, old T, cases ...Case[T]) {
	t.Helper()
	for _, c := range cases {
		t.Run("status/"+c.Name, func(t *testing.T) {
			obj := old.DeepCopyObject().(T)
			c.Change(obj)
			Errors(t, r.ValidateStatusUpdate(context.Background(), obj, old), c.Want...)
		})
	}
}
