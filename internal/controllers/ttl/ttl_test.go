package ttl

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"

	"skiff/internal/controllers/controller"
)

// TestMissedEvents is about a node of which not every state was seen.
func TestMissedEvents(t *testing.T) {
	q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[controller.Request]())
	defer q.ShutDown()
	r := &reconciler{nodes: map[string]struct{}{}}
	node := func(annotations map[string]string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: annotations}}
	}
	done := map[string]string{corev1.ObjectTTLAnnotationKey: "0"}
	for _, step := range []struct {
		what   string
		old, n *corev1.Node
		queued int
	}{
		{"it is new", nil, node(nil), 1},
		{"it has what it should have", node(nil), node(done), 0},
		// It got the annotation and lost it, and only the end was seen.
		{"it lacks it as before", node(nil), node(map[string]string{"other": "change"}), 1},
		{"it is told as new again", nil, node(done), 0},
		{"it is gone", node(done), nil, 0},
	} {
		r.see(q, step.old, step.n)
		if q.Len() != step.queued {
			t.Errorf("%s: %d keys are queued, want %d", step.what, q.Len(), step.queued)
		}
		for q.Len() > 0 {
			key, _ := q.Get()
			q.Done(key)
		}
		if want := 1; step.n != nil && len(r.nodes) != want {
			t.Errorf("%s: %d nodes, want %d", step.what, len(r.nodes), want)
		}
	}
	if len(r.nodes) != 0 {
		t.Errorf("%d nodes are left", len(r.nodes))
	}
}
