package inprocess_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

// TestReadersThatChangeNothingShareObjects changes what two readers were given:
// the one that asked for no copy holds what everybody holds.
func TestReadersThatChangeNothingShareObjects(t *testing.T) {
	c := testcluster.Start(t)
	ctx := context.Background()
	set := c.Set(identity.Loopback())
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "m"}, Data: map[string]string{"key": "stored"}}
	if err := set.Client.Create(ctx, m); err != nil {
		t.Fatal(err)
	}
	key := client.ObjectKeyFromObject(m)
	get := func(options ...client.GetOption) *corev1.ConfigMap {
		t.Helper()
		m := &corev1.ConfigMap{}
		if err := set.Cache.Get(ctx, key, m, options...); err != nil {
			t.Fatal(err)
		}
		return m
	}
	get().Data["key"] = "private"
	if got := get().Data["key"]; got != "stored" {
		t.Errorf("after a change of a private copy there is %q", got)
	}
	get(client.UnsafeDisableDeepCopy).Data["key"] = "shared"
	if got := get().Data["key"]; got != "shared" {
		t.Errorf("after a change of the shared object there is %q", got)
	}
	whole := get(client.UnsafeDisableDeepCopy)
	whole.Name, whole.Labels = "other", map[string]string{"a": "b"}
	if got := get(); got.Name != "m" || got.Labels != nil {
		t.Errorf("fields of the reader's own struct are shared: %v", got)
	}
}
