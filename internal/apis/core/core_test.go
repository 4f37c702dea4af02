package core

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/randfill"

	"skiff/internal/apis"
)

func lines(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// testdata/api-resources.txt is what upstream's v1.36 discovery says: plural,
// short names, version, namespaced, kind, verbs, categories.
func TestNames(t *testing.T) {
	var got []string
	for _, r := range Resources() {
		words := []string{r.Names.Resource}
		if len(r.ShortNames) > 0 {
			words = append(words, strings.Join(r.ShortNames, ","))
		}
		words = append(words, r.Hub.Version, fmt.Sprint(r.Namespaced), r.Kind, strings.Join(r.ServedVerbs(), ","), strings.Join(r.Categories, ","))
		got = append(got, strings.TrimSpace(strings.Join(words, " ")))
	}
	slices.Sort(got)
	var want []string
	for _, line := range lines(t, "testdata/api-resources.txt") {
		want = append(want, strings.TrimSpace(line))
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("resources are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestStoragePrefixes(t *testing.T) {
	special := map[string]string{
		"services": "/registry/services/specs", "endpoints": "/registry/services/endpoints",
		"nodes": "/registry/minions", "replicationcontrollers": "/registry/controllers",
	}
	for _, r := range Resources() {
		want := special[r.Names.Resource]
		if want == "" {
			want = "/registry/" + r.Names.Resource
		}
		if r.Prefix != want {
			t.Errorf("%s is stored below %s, want %s", r.Names.Resource, r.Prefix, want)
		}
	}
}

// testdata/table-columns.txt is what upstream's v1.36 server answers.
func TestColumns(t *testing.T) {
	want := map[string]string{}
	for _, line := range lines(t, "testdata/table-columns.txt") {
		path, columns, _ := strings.Cut(line, ": ")
		want[strings.TrimPrefix(path, "/api/v1/")] = columns
	}
	for _, r := range Resources() {
		if r.Names.Resource == "bindings" {
			continue
		}
		got := "Name(string/name p0), Created At(date p0)"
		if r.Columns != nil {
			var all []string
			for _, c := range r.Columns {
				kind := c.Type
				if c.Format != "" {
					kind += "/" + c.Format
				}
				all = append(all, fmt.Sprintf("%s(%s p%d)", c.Name, kind, c.Priority))
				if c.Description == "" {
					t.Errorf("%s: column %s has no description", r.Names.Resource, c.Name)
				}
			}
			got = strings.Join(all, ", ")
		}
		if got != want[r.Names.Resource] {
			t.Errorf("%s has columns\n%s\nwant\n%s", r.Names.Resource, got, want[r.Names.Resource])
		}
	}
}

// fill makes random objects. Odd values of enumerations and the like are left
// as they come: nothing may panic on them. Only volumes get one source each,
// because the check of a second one is never reached.
func fill(seed int64) *randfill.Filler {
	return randfill.NewWithSeed(seed).NilChance(0.4).NumElements(0, 3).MaxDepth(12).Funcs(
		func(m *metav1.ManagedFieldsEntry, _ randfill.Continue) { *m = metav1.ManagedFieldsEntry{} },
		func(f *metav1.FieldsV1, _ randfill.Continue) { f.Raw = []byte("{}") },
		func(s *corev1.VolumeSource, c randfill.Continue) {
			c.FillNoCustom(s)
			keepOne(s, c)
		},
		func(s *corev1.PersistentVolumeSource, c randfill.Continue) {
			c.FillNoCustom(s)
			keepOne(s, c)
		},
	)
}

// keepOne leaves one field of a struct of pointers.
func keepOne(source any, c randfill.Continue) {
	v := reflect.ValueOf(source).Elem()
	keep := c.Intn(v.NumField())
	for i := range v.NumField() {
		if i != keep {
			v.Field(i).SetZero()
		}
	}
}

// TestRandomObjects checks that defaulting is idempotent, and that nothing a
// declaration does panics, whatever is in the object.
func TestRandomObjects(t *testing.T) {
	ctx := t.Context()
	for _, r := range Resources() {
		for seed := range int64(50) {
			obj, old := r.Hub.New(), r.Hub.New()
			fill(seed).Fill(obj)
			fill(seed + 1000).Fill(old)
			if seed%3 == 0 {
				old = obj.DeepCopyObject().(apis.Object)
			}
			if r.Default != nil {
				r.Default(old)
				r.Default(obj)
				again := obj.DeepCopyObject().(apis.Object)
				r.Default(again)
				if !apiequality.Semantic.DeepEqual(obj, again) {
					t.Fatalf("%s, seed %d: defaulting twice is not defaulting once", r.Names.Resource, seed)
				}
			}
			if r.PrepareCreate != nil {
				r.PrepareCreate(ctx, obj.DeepCopyObject().(apis.Object))
			}
			if r.PrepareUpdate != nil {
				r.PrepareUpdate(ctx, obj, old)
			}
			if r.PrepareStatusUpdate != nil {
				r.PrepareStatusUpdate(ctx, obj, old)
			}
			if r.Validate != nil {
				r.Validate(ctx, obj)
			}
			if r.ValidateUpdate != nil {
				r.ValidateUpdate(ctx, obj, old)
			}
			if r.ValidateStatusUpdate != nil {
				r.ValidateStatusUpdate(ctx, obj, old)
			}
			// Services' warnings are about addresses that passed validation.
			if r.Warnings != nil && r.Names.Resource != "services" {
				r.Warnings(ctx, obj, nil)
			}
			if r.BeforeDelete != nil {
				r.BeforeDelete(obj.DeepCopyObject().(apis.Object))
			}
			if r.Cells != nil {
				if cells := r.Cells(obj); len(cells) != len(r.Columns) {
					t.Fatalf("%s has %d columns and %d cells", r.Names.Resource, len(r.Columns), len(cells))
				}
			}
			for _, field := range r.Fields {
				field(obj)
			}
			for _, sub := range r.Subresources {
				if sub.Prepare == nil {
					continue
				}
				edited := obj.DeepCopyObject().(apis.Object)
				sub.Prepare(ctx, edited, old)
				if sub.Validate != nil {
					sub.Validate(ctx, edited, old)
				}
			}
			for _, v := range r.Other {
				there, err := v.FromHub(obj)
				if err != nil {
					t.Fatal(err)
				}
				back, err := v.ToHub(there)
				if err != nil {
					t.Fatal(err)
				}
				want := obj.DeepCopyObject().(apis.Object)
				want.GetObjectKind().SetGroupVersionKind(back.GetObjectKind().GroupVersionKind())
				if !apiequality.Semantic.DeepEqual(want, back) {
					t.Fatalf("%s does not survive the way to %s and back", r.Names.Resource, v.GroupVersion())
				}
				if v.Validate != nil {
					v.Validate(ctx, obj, old)
				}
			}
		}
	}
}

// TestListTypes checks that the list types are lists.
func TestListTypes(t *testing.T) {
	for _, r := range Resources() {
		if r.Hub.NewList == nil {
			continue
		}
		if err := meta.SetList(r.Hub.NewList(), nil); err != nil {
			t.Errorf("%s: %v", r.Names.Resource, err)
		}
	}
}
