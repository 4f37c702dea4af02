package crd_test

import (
	"context"
	"fmt"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	toolscache "k8s.io/client-go/tools/cache"
	crcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestInformers follows a kind in process and through controller-runtime's own
// cache, past changes of its definition and its end and return.
func TestInformers(t *testing.T) {
	f := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	f.define(boats)
	kind := &metav1.PartialObjectMetadata{}
	kind.SetGroupVersionKind(boatsGVR("v1").GroupVersion().WithKind("Boat"))
	remote, err := crcache.New(f.Config, crcache.Options{})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = remote.Start(ctx) }()
	seen := map[string]chan string{}
	for name, c := range map[string]crcache.Informers{"in process": f.Clients.Cache().Cache, "remote": remote} {
		informer, err := c.GetInformer(ctx, kind)
		if err != nil {
			t.Fatal(err)
		}
		names := make(chan string, 100)
		seen[name] = names
		if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: func(o any) { names <- o.(client.Object).GetName() },
		}); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	appears := func(who ...string) {
		t.Helper()
		n++
		want := fmt.Sprintf("b%d", n)
		f.create(f.boats("v1"), "{apiVersion: example.com/v1, kind: Boat, metadata: {name: "+want+"}}")
		for _, name := range who {
			for got := ""; got != want; {
				select {
				case got = <-seen[name]:
				case <-ctx.Done():
					t.Fatalf("%s did not see %s", name, want)
				}
			}
		}
	}
	appears("in process", "remote")
	f.change("boats.example.com", func(d *unstructured.Unstructured) {
		specOf(d)["mast"] = map[string]any{"type": "string"}
	})
	appears("in process", "remote")
	if err := f.dynamic.Resource(crds).Delete(ctx, "boats.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.eventually(func() error {
		if _, err := f.dynamic.Resource(crds).Get(ctx, "boats.example.com", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the definition is still there: %v", err)
		}
		return nil
	})
	f.define(boats)
	appears("in process")
}
