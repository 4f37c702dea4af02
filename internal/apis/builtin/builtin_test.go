package builtin

import (
	"fmt"
	"math/rand"
	"os"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"

	"skiff/internal/apis"
)

func TestTypesAreRegistered(t *testing.T) {
	scheme := NewScheme()
	for _, r := range Resources(Hooks{}) {
		for _, v := range append(r.Other, r.Hub) {
			gvk := v.GVK()
			if _, err := scheme.New(gvk); err != nil {
				t.Errorf("%s: %v", r.Resource, err)
			}
			if v.Group != r.Group {
				continue // events are served in two groups, with the types of each
			}
			if kinds, _, err := scheme.ObjectKinds(v.New()); err != nil || !slices.Contains(kinds, gvk) {
				t.Errorf("%s: New makes %v (%v), not %v", r.Resource, kinds, err, gvk)
			}
			if v.NewList == nil {
				if r.Virtual == nil {
					t.Errorf("%s: no list type", r.Resource)
				}
				continue
			}
			list := v.NewList()
			if _, err := meta.ListAccessor(list); err != nil {
				t.Errorf("%s: %T is no list: %v", r.Resource, list, err)
			}
		}
	}
}

// TestFreshValues shows that two servers in one process share nothing.
func TestFreshValues(t *testing.T) {
	a, b := Resources(Hooks{}), Resources(Hooks{})
	for i := range a {
		if a[i] == b[i] {
			t.Errorf("%s: the same declaration twice", a[i].Resource)
		}
	}
}

// TestNames compares with kubectl api-resources of v1.36. A line is: resource,
// short names if any, group version, namespaced, kind, verbs, categories.
func TestNames(t *testing.T) {
	var got []string
	for _, r := range Resources(Hooks{}) {
		versions := []apis.Version{r.Hub}
		for _, v := range r.Other {
			if v.Group != r.Group {
				versions = append(versions, v)
			}
		}
		for _, v := range versions {
			line := []string{r.Resource}
			if len(r.ShortNames) > 0 {
				line = append(line, strings.Join(r.ShortNames, ","))
			}
			gv := v.GroupVersion().String()
			line = append(line, gv, fmt.Sprint(r.Namespaced), v.Kind, strings.Join(r.ServedVerbs(), ","), strings.Join(r.Categories, ","))
			got = append(got, strings.Join(line, " "))
		}
	}
	compare(t, got, lines(t, "testdata/api-resources.txt"))
}

// TestColumns compares with the Tables of v1.36. A line is a path of the
// collection and its columns, each with type, format and priority.
func TestColumns(t *testing.T) {
	var got []string
	for _, r := range Resources(Hooks{}) {
		if r.Virtual != nil && r.Virtual.List == nil {
			continue
		}
		for _, v := range append([]apis.Version{r.Hub}, r.Other...) {
			if v.Group == r.Group && v.Version != r.Hub.Version {
				continue // upstream's facts are of the preferred version only
			}
			columns, cells, example := r.Columns, r.Cells, r.Hub.New()
			if v.Columns != nil {
				columns, cells, example = v.Columns, v.Cells, v.New()
			}
			path := "/apis/" + v.Group + "/" + v.Version + "/" + r.Resource
			if v.Group == "" {
				path = "/api/" + v.Version + "/" + r.Resource
			}
			if columns == nil {
				got = append(got, path+": Name(string/name p0), Created At(date p0)")
				continue
			}
			var parts []string
			for _, c := range columns {
				kind := c.Type
				if c.Format != "" {
					kind += "/" + c.Format
				}
				parts = append(parts, fmt.Sprintf("%s(%s p%d)", c.Name, kind, c.Priority))
			}
			got = append(got, path+": "+strings.Join(parts, ", "))
			if n := len(cells(example)); n != len(columns) {
				t.Errorf("%s: %d cells for %d columns", path, n, len(columns))
			}
		}
	}
	compare(t, got, lines(t, "testdata/table-columns.txt"))
}

func lines(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimRight(string(text), "\n"), "\n")
}

func compare(t *testing.T, got, want []string) {
	t.Helper()
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("missing: %s", line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("unknown: %s", line)
		}
	}
}

func TestPrefixes(t *testing.T) {
	want := map[string]string{
		"ingresses.networking.k8s.io":                    "/registry/ingress",
		"leases.coordination.k8s.io":                     "/registry/leases",
		"deployments.apps":                               "/registry/deployments",
		"apiservices.apiregistration.k8s.io":             "/registry/apiregistration.k8s.io/apiservices",
		"customresourcedefinitions.apiextensions.k8s.io": "/registry/apiextensions.k8s.io/customresourcedefinitions",
		"nodes":                  "/registry/minions",
		"services":               "/registry/services/specs",
		"endpoints":              "/registry/services/endpoints",
		"replicationcontrollers": "/registry/controllers",
	}
	seen := map[string]string{}
	for _, r := range Resources(Hooks{}) {
		if r.Virtual != nil {
			continue
		}
		name := r.GroupResource().String()
		if want := want[name]; want != "" && r.Prefix != want {
			t.Errorf("%s is stored below %s, want %s", name, r.Prefix, want)
		}
		if other, taken := seen[r.Prefix]; taken {
			t.Errorf("%s and %s are both stored below %s", name, other, r.Prefix)
		}
		seen[r.Prefix] = name
	}
}

func newFiller(seed int64) *randfill.Filler {
	return randfill.New().RandSource(rand.NewSource(seed)).NilChance(.3).NumElements(1, 3).MaxDepth(12).Funcs(
		func(q *resource.Quantity, c randfill.Continue) {
			*q = *resource.NewQuantity(c.Int63n(1000), resource.DecimalSI)
		},
		func(v *intstr.IntOrString, c randfill.Continue) { *v = intstr.FromInt32(c.Int31n(100)) },
		func(r *runtime.RawExtension, _ randfill.Continue) { *r = runtime.RawExtension{Raw: []byte(`{"a":1}`)} },
		func(o *metav1.ObjectMeta, c randfill.Continue) {
			*o = metav1.ObjectMeta{Name: c.String(10), Namespace: "default"}
		},
		func(f *metav1.FieldsV1, _ randfill.Continue) { f.Raw = []byte(`{}`) },
	)
}

// TestDefaultsAreIdempotent defaults random objects, in which enumerations
// mostly hold nonsense, and then once more.
func TestDefaultsAreIdempotent(t *testing.T) {
	for _, r := range Resources(Hooks{}) {
		if r.Default == nil {
			continue
		}
		t.Run(r.GroupResource().String(), func(t *testing.T) {
			for seed := range int64(10) {
				obj := r.Hub.New()
				if seed > 0 {
					newFiller(seed).Fill(obj)
				}
				r.Default(obj)
				again := obj.DeepCopyObject().(apis.Object)
				r.Default(again)
				if !equality.Semantic.DeepEqual(obj, again) {
					t.Fatalf("seed %d: defaulting twice made a difference:\n%+v\n%+v", seed, obj, again)
				}
			}
		})
	}
}

// TestRandomObjects shows that no declaration panics, whatever comes in.
func TestRandomObjects(t *testing.T) {
	ctx := t.Context()
	for _, r := range Resources(Hooks{}) {
		t.Run(r.GroupResource().String(), func(t *testing.T) {
			for seed := range int64(8) {
				obj, old := r.Hub.New(), r.Hub.New()
				if seed > 0 {
					newFiller(seed).Fill(obj)
					newFiller(seed + 1000).Fill(old)
				}
				if r.Default != nil {
					r.Default(obj)
					r.Default(old)
				}
				if r.PrepareCreate != nil {
					r.PrepareCreate(ctx, old)
				}
				if r.PrepareUpdate != nil {
					r.PrepareUpdate(ctx, obj, old)
				}
				if r.PrepareStatusUpdate != nil {
					r.PrepareStatusUpdate(ctx, obj, old)
				}
				before := obj.DeepCopyObject()
				valid := true
				if r.Validate != nil {
					valid = len(r.Validate(ctx, obj)) == 0
				}
				if r.ValidateUpdate != nil {
					r.ValidateUpdate(ctx, obj, old)
				}
				if r.ValidateStatusUpdate != nil {
					r.ValidateStatusUpdate(ctx, obj, old)
				}
				if valid && r.Warnings != nil {
					r.Warnings(ctx, obj, old)
					r.Warnings(ctx, obj, nil)
				}
				if r.Cells != nil {
					r.Cells(obj)
				}
				for _, get := range r.Fields {
					get(obj)
				}
				if r.Scale != nil {
					r.Scale.Replicas(obj)
					r.Scale.StatusReplicas(obj)
					r.Scale.Selector(obj)
				}
				if !equality.Semantic.DeepEqual(before, obj) {
					t.Fatalf("seed %d: validation or printing changed the object", seed)
				}
			}
		})
	}
}

// TestConversions converts random objects to the hub and back. The first time
// around may lose what the other version cannot say (an unset quantity that
// must be set there); after that nothing may change.
func TestConversions(t *testing.T) {
	for _, r := range Resources(Hooks{}) {
		for _, v := range r.Other {
			t.Run(v.GVK().String(), func(t *testing.T) {
				around := func(hub apis.Object) apis.Object {
					other, err := v.FromHub(hub)
					if err != nil {
						t.Fatal(err)
					}
					if hub, err = v.ToHub(other); err != nil {
						t.Fatal(err)
					}
					return hub
				}
				for seed := range int64(30) {
					hub := r.Hub.New()
					newFiller(seed).Fill(hub)
					once := around(hub)
					if twice := around(once); !equality.Semantic.DeepEqual(once, twice) {
						t.Fatalf("seed %d: from the hub and back made a difference:\n%+v\n%+v", seed, once, twice)
					}
				}
			})
		}
	}
}

// TestStatusOnly lists the resources whose status subresource leaves metadata
// alone; for the others it takes labels and annotations, as upstream.
func TestStatusOnly(t *testing.T) {
	want := []string{
		"apiservices.apiregistration.k8s.io", "flowschemas.flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
		"resourceclaims.resource.k8s.io", "servicecidrs.networking.k8s.io", "validatingadmissionpolicies.admissionregistration.k8s.io", "volumeattachments.storage.k8s.io",
	}
	var got []string
	for _, r := range Resources(Hooks{}) {
		if !r.HasStatus || r.PrepareStatusUpdate == nil {
			continue
		}
		obj, old := r.Hub.New(), r.Hub.New()
		old.SetLabels(map[string]string{"a": "old"})
		obj.SetLabels(map[string]string{"a": "new"})
		obj.SetAnnotations(map[string]string{"a": "new"})
		obj.SetFinalizers([]string{"a/b"})
		r.PrepareStatusUpdate(t.Context(), obj, old)
		if obj.GetLabels()["a"] == "old" && obj.GetAnnotations() == nil && obj.GetFinalizers() == nil {
			got = append(got, r.GroupResource().String())
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}
