package verbs_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"skiff/internal/apis/builtin"
	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/verbs"
	"skiff/internal/identity"
	"skiff/internal/store/cache"
	"skiff/internal/store/pebble"
)

// TestGeneratedNames has the server draw names that are taken.
func TestGeneratedNames(t *testing.T) {
	engine, err := pebble.Open(pebble.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	state := cache.New(engine, clock.RealClock{}, log)
	drawn := 0
	var draw func(int) string
	s := verbs.New(verbs.Config{Engine: engine, Cache: state, Scheme: builtin.NewScheme(), Clock: clock.RealClock{}, Log: log, Names: func(base string) string {
		drawn++
		return base + draw(drawn)
	}})
	s.SetPolicy(nil, admission.Chain{})
	ctx, cancel := context.WithCancel(identity.NewContext(context.Background(), identity.Loopback()))
	for _, d := range builtin.Resources(builtin.Hooks{}) {
		if d.Group == "" && d.Names.Resource == "configmaps" {
			if _, err := s.Add(ctx, d); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := state.Load(ctx); err != nil {
		t.Fatal(err)
	}
	followed := make(chan error, 1)
	go func() { followed <- state.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-followed
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	create := func() (string, error) {
		drawn = 0
		e, err := s.Create(ctx, &verbs.Request{Version: s.Lookup(schema.GroupResource{Resource: "configmaps"}).Versions[0], Namespace: "default"},
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "cm-"}}, &metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		obj, err := e.Object()
		if err != nil {
			return "", err
		}
		return obj.GetName(), nil
	}
	draw = func(int) string { return "same" }
	if name, err := create(); name != "cm-same" || err != nil || drawn != 1 {
		t.Fatalf("%q %v after %d", name, err, drawn)
	}
	// Seven names are taken, the eighth is not.
	draw = func(n int) string {
		if n < 8 {
			return "same"
		}
		return fmt.Sprint("other-", n)
	}
	if name, err := create(); name != "cm-other-8" || err != nil || drawn != 8 {
		t.Errorf("%q %v after %d", name, err, drawn)
	}
	draw = func(int) string { return "same" }
	_, err = create()
	var status apierrors.APIStatus
	if status, _ = err.(apierrors.APIStatus); status == nil {
		t.Fatal(err)
	}
	got := status.Status()
	if got.Code != 409 || got.Reason != metav1.StatusReasonAlreadyExists || drawn != 8 || got.Details.RetryAfterSeconds != 1 ||
		got.Message != `configmaps "cm-same" already exists, the server was not able to generate a unique name for the object` {
		t.Errorf("after %d: %+v", drawn, got)
	}
}
