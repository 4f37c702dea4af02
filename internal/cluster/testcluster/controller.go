package testcluster

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	skiffclient "skiff/internal/client"
	"skiff/internal/identity"
)

// patience is how long Wait waits.
const patience = time.Minute

// Account returns the cluster as a ServiceAccount in kube-system sees it.
func (c *Cluster) Account(name string) skiffclient.Set {
	return c.Set(&identity.User{
		Name:   identity.ServiceAccountPrefix + "kube-system:" + name,
		Groups: []string{identity.GroupServiceAccounts, identity.GroupServiceAccounts + ":kube-system", identity.GroupAuthenticated},
	})
}

// Discover returns what the API server serves.
func (c *Cluster) Discover(ctx context.Context) ([]*metav1.APIResourceList, error) {
	return c.PreferredResources(ctx)
}

// Run runs a part of the cluster until the test ends.
func Run(t testing.TB, part func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- part(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && ctx.Err() == nil {
			t.Errorf("a part of the cluster stopped: %v", err)
		}
	})
}

// Wait waits until ok is true, asking again whenever an object of list's kind
// changes.
func (c *Cluster) Wait(t testing.TB, what string, list client.ObjectList, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w, err := c.Client.Watch(ctx, list)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for !ok() {
		select {
		case <-w.ResultChan():
		case <-ctx.Done():
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}
