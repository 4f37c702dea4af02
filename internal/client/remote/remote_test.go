package remote_test

import (
	"context"
	"log/slog"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/client/remote"
	"skiff/internal/cluster/testcluster"
)

// TestDeleteWithOptions: options in protobuf are said to be of the group of
// what they delete.
func TestDeleteWithOptions(t *testing.T) {
	c := testcluster.Start(t)
	ctx := t.Context()
	set, err := remote.Connect(ctx, c.Config, c.Scheme, remote.Options{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "r"}, Data: runtime.RawExtension{Raw: []byte(`{}`)}, Revision: 1}
	if err := set.Client.Create(ctx, r); err != nil {
		t.Fatal(err)
	}
	if err := set.Client.Delete(ctx, r, client.Preconditions{UID: ptr.To(types.UID("other"))}); !apierrors.IsConflict(err) {
		t.Errorf("with the UID of another object: %v", err)
	}
	if err := set.Client.Delete(ctx, r, client.Preconditions{UID: &r.UID}); err != nil {
		t.Error(err)
	}
	if err := c.Client.Get(context.Background(), client.ObjectKeyFromObject(r), r); !apierrors.IsNotFound(err) {
		t.Errorf("after the deletion: %v", err)
	}
}
