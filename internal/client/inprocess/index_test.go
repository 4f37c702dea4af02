package inprocess_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

// TestIndexesNeverLag reads an index right after every write.
func TestIndexesNeverLag(t *testing.T) {
	c := testcluster.Start(t)
	ctx := context.Background()
	set := c.Set(identity.Loopback())
	const color = "test/color"
	if err := set.Cache.IndexField(ctx, &corev1.ConfigMap{}, color, func(o client.Object) []string { return []string{o.GetLabels()["color"]} }); err != nil {
		t.Fatal(err)
	}
	count := func(value string) int {
		var list corev1.ConfigMapList
		if err := set.Cache.List(ctx, &list, client.InNamespace("default"), client.MatchingFields{color: value}); err != nil {
			t.Fatal(err)
		}
		return len(list.Items)
	}
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "chameleon"}}
	if err := set.Client.Create(ctx, m); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		before, after := m.Labels["color"], fmt.Sprintf("shade-%d", i)
		m.Labels = map[string]string{"color": after}
		if err := set.Client.Update(ctx, m); err != nil {
			t.Fatal(err)
		}
		if i > 0 && count(before) != 0 || count(after) != 1 {
			t.Fatalf("change %d is not in the index", i)
		}
	}
	if err := set.Client.Delete(ctx, m); err != nil {
		t.Fatal(err)
	}
	if count(m.Labels["color"]) != 0 {
		t.Error("what is deleted is still in the index")
	}
}
