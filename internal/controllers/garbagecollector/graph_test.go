package garbagecollector

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

var podKind, setKind = schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "ReplicaSet"}

func owner(uid string) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: uid, UID: types.UID(uid), BlockOwnerDeletion: ptr.To(true)}
}

func object(uid string, owners ...metav1.OwnerReference) *metav1.ObjectMeta {
	return &metav1.ObjectMeta{Namespace: "ns", Name: uid, UID: types.UID(uid), OwnerReferences: owners}
}

func expectLook(t *testing.T, what string, got []types.UID, want ...types.UID) {
	t.Helper()
	slices.Sort(got)
	if !slices.Equal(slices.Compact(got), want) {
		t.Errorf("%s: look at %v, want %v", what, got, want)
	}
}

func TestOwnerGoes(t *testing.T) {
	g := newGraph()
	expectLook(t, "new owner", g.observe(setKind, object("set")))
	expectLook(t, "new dependents", append(g.observe(podKind, object("a", owner("set"))), g.observe(podKind, object("b", owner("set")))...))
	if v, _ := g.look("a"); !v.settled {
		t.Error("a dependent with its owner is not settled")
	}
	expectLook(t, "owner gone", g.remove("set"), "a", "b")
	if v, _ := g.look("a"); v.settled {
		t.Error("a dependent without its owner is settled")
	}
	if !g.isAbsent(reference{setKind.GroupKind(), types.NamespacedName{Namespace: "ns", Name: "set"}, "set"}) {
		t.Error("the owner is not known to be absent")
	}
	g.remove("a")
	g.remove("b")
	if len(g.nodes) != 0 {
		t.Errorf("%d nodes left of nothing", len(g.nodes))
	}
}

func TestOwnerSeenAfterDependent(t *testing.T) {
	g := newGraph()
	expectLook(t, "dependent of an unseen owner", g.observe(podKind, object("a", owner("set"))), "set")
	expectLook(t, "owner found missing", g.remove("set"), "a")
	expectLook(t, "owner seen after all", g.observe(setKind, object("set")))
	if v, _ := g.look("a"); !v.settled {
		t.Error("the dependent did not find its owner")
	}
	expectLook(t, "owner gone", g.remove("set"), "a")
}

func TestWrongReferenceToTheRightUID(t *testing.T) {
	g := newGraph()
	wrong := owner("set")
	wrong.Name = "other"
	g.observe(podKind, object("a", wrong))
	expectLook(t, "owner with another name", g.observe(setKind, object("set")), "a")
	if v, _ := g.look("a"); v.settled {
		t.Error("a wrong reference counts as an owner")
	}
}

func TestForeground(t *testing.T) {
	g := newGraph()
	g.observe(setKind, object("set"))
	g.observe(podKind, object("a", owner("set")))
	going := object("set")
	going.DeletionTimestamp, going.Finalizers = &metav1.Time{}, []string{metav1.FinalizerDeleteDependents}
	now := metav1.Now()
	going.DeletionTimestamp = &now
	expectLook(t, "foreground deletion begins", g.observe(setKind, going), "a", "set")
	if v, _ := g.look("set"); !v.foreground || len(v.dependents) != 1 || !v.dependents[0].blocking {
		t.Errorf("the owner is %+v", v)
	}
	expectLook(t, "the same again", g.observe(setKind, going))
	expectLook(t, "last dependent gone", g.remove("a"), "set")
}

func TestOrphan(t *testing.T) {
	g := newGraph()
	g.observe(setKind, object("set"))
	g.observe(podKind, object("a", owner("set")))
	now := metav1.Now()
	going := object("set")
	going.DeletionTimestamp, going.Finalizers = &now, []string{metav1.FinalizerOrphanDependents}
	expectLook(t, "orphaning begins", g.observe(setKind, going), "set")
	g.observe(podKind, object("a"))
	if v, _ := g.look("set"); len(v.dependents) != 0 {
		t.Error("the dependent is still there")
	}
}
