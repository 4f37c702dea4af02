package precision

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand"
	"reflect"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"

	"skiff/internal/apis"
	"skiff/internal/apis/builtin"
)

// clockTime is a time as the clocks of this process give it.
func clockTime(c randfill.Continue) time.Time {
	return time.Now().Add(time.Duration(c.Int63n(int64(time.Hour))))
}

func filler(seed int64) *randfill.Filler {
	return randfill.New().RandSource(rand.NewSource(seed)).NilChance(.2).NumElements(1, 2).MaxDepth(14).Funcs(
		func(t *metav1.Time, c randfill.Continue) { t.Time = clockTime(c) },
		func(t *metav1.MicroTime, c randfill.Continue) { t.Time = clockTime(c) },
		func(q *resource.Quantity, c randfill.Continue) {
			*q = *resource.NewQuantity(c.Int63n(9), resource.DecimalSI)
		},
		func(v *intstr.IntOrString, c randfill.Continue) { *v = intstr.FromInt32(c.Int31n(9)) },
		func(r *runtime.RawExtension, _ randfill.Continue) { r.Raw = []byte(`{}`) },
		func(f *metav1.FieldsV1, _ randfill.Continue) { f.Raw = []byte(`{}`) },
		func(j *apiextensionsv1.JSON, _ randfill.Continue) { j.Raw = []byte(`{}`) },
	)
}

// times lists all times in v, in an order of their places.
func times(v reflect.Value) (all []time.Time) {
	switch {
	case v.Type() == timeType || v.Type() == microTimeType:
		return []time.Time{v.Field(0).Interface().(time.Time)}
	case v.Kind() == reflect.Pointer && !v.IsNil():
		return times(v.Elem())
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			all = append(all, times(v.Index(i))...)
		}
	case v.Kind() == reflect.Map:
		keys := map[string]reflect.Value{}
		for _, k := range v.MapKeys() {
			keys[fmt.Sprint(k)] = k
		}
		for _, name := range slices.Sorted(maps.Keys(keys)) {
			all = append(all, times(v.MapIndex(keys[name]))...)
		}
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				all = append(all, times(v.Field(i))...)
			}
		}
	}
	return all
}

// TestEveryType: what has been rounded has the very times that whoever reads it
// gets, in either format.
func TestEveryType(t *testing.T) {
	found := map[bool]int{}
	for _, r := range builtin.Resources(builtin.Hooks{}) {
		rounder := Of(r.Hub.New(), false)
		for seed := range int64(8) {
			obj := r.Hub.New()
			filler(seed).Fill(obj)
			rounder.Round(obj)
			got := times(reflect.ValueOf(obj))
			found[len(got) > 0]++
			for format, read := range map[string]apis.Object{"JSON": viaJSON(t, r, obj), "protobuf": viaProtobuf(t, r, obj)} {
				if read == nil {
					continue
				}
				if want := times(reflect.ValueOf(read)); !slices.Equal(got, want) {
					t.Errorf("%s, seed %d, %s:\ngot  %v\nwant %v", r.GroupResource(), seed, format, got, want)
				}
			}
		}
	}
	if found[true] < 100 {
		t.Errorf("only %d objects have times", found[true])
	}
}

func viaJSON(t *testing.T, r *apis.Resource, obj apis.Object) apis.Object {
	data, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	out := r.Hub.New()
	if err := json.Unmarshal(data, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func viaProtobuf(t *testing.T, r *apis.Resource, obj apis.Object) apis.Object {
	m, ok := obj.(interface{ Marshal() ([]byte, error) })
	if !ok {
		return nil
	}
	data, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	out := r.Hub.New()
	if err := out.(interface{ Unmarshal([]byte) error }).Unmarshal(data); err != nil {
		t.Fatal(err)
	}
	return out
}

// What is exact is left alone: it may be shared.
func TestExactTimesAreNotWritten(t *testing.T) {
	exact := metav1.Unix(1e9, 0)
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: exact, DeletionTimestamp: &exact}}
	budget.Status.DisruptedPods = map[string]metav1.Time{"exact": exact, "none": {}, "more exact": metav1.Unix(1e9, 7)}
	rounder := Of(budget, false)
	rounder.Round(budget)
	if got := budget.Status.DisruptedPods; got["more exact"] != exact || got["exact"] != exact || got["none"] != (metav1.Time{}) {
		t.Errorf("got %v", got)
	}
	if rounder.round(reflect.ValueOf(budget).Elem()) {
		t.Error("rounding twice changes something")
	}
	if Of(&corev1.PodTemplateSpec{}, false) == nil || Of(&metav1.LabelSelector{}, true) != nil {
		t.Error("times are looked for where there are none, or not where there are")
	}
}

// TestEmptyLists is about what protobuf has no words for.
func TestEmptyLists(t *testing.T) {
	made := func() *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{Rules: []rbacv1.PolicyRule{}, AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{}}}
	}
	stored := made()
	rounder := Of(stored, true)
	rounder.Round(stored)
	if stored.Rules != nil || stored.AggregationRule.ClusterRoleSelectors == nil {
		t.Errorf("a list that clients see stays empty, or another does not: %+v", stored)
	}
	if rounder.round(reflect.ValueOf(stored).Elem()) {
		t.Error("rounding twice changes something")
	}
	kept := &rbacv1.ClusterRole{Rules: []rbacv1.PolicyRule{{Verbs: []string{}}}}
	rounder.Round(kept)
	if len(kept.Rules) != 1 || kept.Rules[0].Verbs != nil {
		t.Errorf("lists in lists: %+v", kept)
	}
	json := made()
	if r := Of(json, false); r != nil {
		r.Round(json)
	}
	if json.Rules == nil {
		t.Error("JSON can say that a list is empty")
	}
}

func BenchmarkPod(b *testing.B) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{ManagedFields: make([]metav1.ManagedFieldsEntry, 3)}}
	pod.Spec.Containers = make([]corev1.Container, 3)
	pod.Status.Conditions, pod.Status.ContainerStatuses = make([]corev1.PodCondition, 5), make([]corev1.ContainerStatus, 3)
	for i := range pod.Status.Conditions {
		pod.Status.Conditions[i].LastTransitionTime = metav1.Unix(1e9, 0)
	}
	rounder := Of(pod, false)
	b.ReportAllocs()
	for b.Loop() {
		rounder.Round(pod)
	}
}
