package fieldset

import (
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/randfill"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// TestAgainstComparison lets both tell the fields of random objects of every
// built-in type.
func TestAgainstComparison(t *testing.T) {
	converter := applyconfigurations.NewTypeConverter(scheme.Scheme)
	compared, told := 0, 0
	for _, gvk := range kinds() {
		empty := newOf(t, gvk)
		base, err := converter.ObjectToTyped(empty)
		if err != nil {
			continue // not a type that is merged: lists, options, reviews
		}
		w, err := Compile(empty, base, "status")
		if err != nil {
			t.Errorf("%s: %v", gvk, err)
			continue
		}
		random := rand.New(rand.NewPCG(1, uint64(compared)))
		for range 20 {
			obj := newOf(t, gvk)
			filler(random).Fill(obj)
			obj.GetObjectKind().SetGroupVersionKind(gvk)
			obj.(metav1.Object).SetManagedFields(nil)
			want, err := fieldsOf(converter, base, obj)
			if err != nil {
				continue // list items without any key
			}
			compared++
			got, ok := w.Of(obj)
			if !ok {
				continue
			}
			told++
			if string(got) != want {
				t.Fatalf("%s:\n got %s\nwant %s\nfor %+v", gvk, got, want, obj)
			}
		}
	}
	// Lists of which two items have the same key are rare, but there are some.
	if compared < 2000 || told < compared/2 {
		t.Errorf("of %d objects %d could be told", compared, told)
	}
}

// fieldsOf compares obj with an empty one, as upstream does.
func fieldsOf(converter managedfields.TypeConverter, empty *typed.TypedValue, obj runtime.Object) (string, error) {
	full, err := converter.ObjectToTyped(obj, typed.AllowDuplicates)
	if err != nil {
		return "", err
	}
	difference, err := empty.Compare(full)
	if err != nil {
		return "", err
	}
	strip := fieldpath.NewSet(fieldpath.MakePathOrDie("metadata"))
	for _, name := range unowned {
		strip.Insert(fieldpath.MakePathOrDie(name))
	}
	for _, name := range unownedMetadata {
		strip.Insert(fieldpath.MakePathOrDie("metadata", name))
	}
	set := difference.FilterFields(fieldpath.NewExcludeSetFilter(fieldpath.NewSet(fieldpath.MakePathOrDie("status"))))
	fields := set.Added.Union(set.Modified).Difference(strip)
	if fields.Empty() {
		return "", nil
	}
	text, err := fields.ToJSON()
	return string(text), err
}

func kinds() []schema.GroupVersionKind {
	all := slices.Collect(maps.Keys(scheme.Scheme.AllKnownTypes()))
	slices.SortFunc(all, func(a, b schema.GroupVersionKind) int {
		return slices.Compare([]string{a.Group, a.Version, a.Kind}, []string{b.Group, b.Version, b.Kind})
	})
	return slices.DeleteFunc(all, func(k schema.GroupVersionKind) bool {
		obj, err := scheme.Scheme.New(k)
		_, hasMeta := obj.(metav1.Object)
		return err != nil || !hasMeta
	})
}

func newOf(t *testing.T, gvk schema.GroupVersionKind) runtime.Object {
	t.Helper()
	obj, err := scheme.Scheme.New(gvk)
	if err != nil {
		t.Fatal(err)
	}
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj
}

// filler fills about half of all fields, with short lists of short words, so
// that some items have equal keys.
func filler(r *rand.Rand) *randfill.Filler {
	letters := "abcdefghijklmnopqrstuvwxyz"
	word := func() string {
		var out []byte
		for range r.IntN(9) {
			out = append(out, letters[r.IntN(len(letters))])
		}
		return string(out)
	}
	return randfill.NewWithSeed(int64(r.Uint32())).NilChance(0.5).NumElements(0, 3).MaxDepth(12).Funcs(
		func(s *string, _ randfill.Continue) { *s = word() },
		func(b *bool, _ randfill.Continue) { *b = r.IntN(2) == 0 },
		func(i *int32, _ randfill.Continue) { *i = r.Int32N(1e6) * r.Int32N(4) },
		func(q *resource.Quantity, _ randfill.Continue) {
			*q = *resource.NewQuantity(r.Int64N(3), resource.DecimalSI)
		},
		func(i *intstr.IntOrString, _ randfill.Continue) { *i = intstr.FromInt32(r.Int32N(3)) },
		func(x *runtime.RawExtension, _ randfill.Continue) { x.Raw = []byte(`{"a":1}`) },
		func(time *metav1.Time, c randfill.Continue) {
			if r.IntN(2) == 0 {
				*time = metav1.Unix(r.Int64N(1e9), 0)
			}
		},
		func(f *metav1.FieldsV1, _ randfill.Continue) { f.Raw = []byte(`{}`) },
	)
}

func TestKeysThatNeedEscapingAreLeftToOthers(t *testing.T) {
	converter := applyconfigurations.NewTypeConverter(scheme.Scheme)
	empty := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
	base, err := converter.ObjectToTyped(empty)
	if err != nil {
		t.Fatal(err)
	}
	w, err := Compile(empty, base, "status")
	if err != nil {
		t.Fatal(err)
	}
	twice := []corev1.Container{{Name: "a"}, {Name: "a"}}
	for name, pod := range map[string]*corev1.Pod{
		"label":      {ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a\"b": ""}}},
		"annotation": {ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"ä": ""}}},
		"finalizer":  {ObjectMeta: metav1.ObjectMeta{Finalizers: []string{"a<b"}}},
		"container":  {Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "\x00"}}}},
		"nameless":   {Spec: corev1.PodSpec{ImagePullSecrets: []corev1.LocalObjectReference{{}, {}}}},
		"twice":      {Spec: corev1.PodSpec{Containers: twice}},
	} {
		if fields, ok := w.Of(pod); ok {
			t.Errorf("%s: got %s", name, fields)
		}
	}
	if fields, ok := w.Of(&corev1.Pod{}); !ok || fields != nil {
		t.Errorf("an empty pod has %s, %v", fields, ok)
	}
	if _, err := Compile(&reflect.Value{}, base); err == nil {
		t.Error("a type of another schema was compiled")
	}
}

func BenchmarkPod(b *testing.B) {
	converter := applyconfigurations.NewTypeConverter(scheme.Scheme)
	kind := metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	base, err := converter.ObjectToTyped(&corev1.Pod{TypeMeta: kind})
	if err != nil {
		b.Fatal(err)
	}
	w, err := Compile(&corev1.Pod{}, base, "status")
	if err != nil {
		b.Fatal(err)
	}
	pod := &corev1.Pod{
		TypeMeta:   kind,
		ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"app": "a", "tier": "b"}},
		Spec: corev1.PodSpec{
			RestartPolicy: "Always",
			Containers: []corev1.Container{{
				Name: "main", Image: "a/b:c", Env: []corev1.EnvVar{{Name: "A", Value: "b"}},
				Ports:          []corev1.ContainerPort{{ContainerPort: 80, Protocol: "TCP"}},
				Resources:      corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}},
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(80)}}},
			}},
		},
	}
	b.Run("written", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.Of(pod)
		}
	})
	b.Run("compared", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			full, err := converter.ObjectToTyped(pod, typed.AllowDuplicates)
			if err != nil {
				b.Fatal(err)
			}
			difference, err := base.Compare(full)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := difference.Added.Union(difference.Modified).ToJSON(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
