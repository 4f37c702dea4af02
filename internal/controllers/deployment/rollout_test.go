package deployment

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func rolling(replicas int32, surge, unavailable string) *appsv1.Deployment {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	return &appsv1.Deployment{Spec: appsv1.DeploymentSpec{
		Replicas: &replicas,
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u}},
	}}
}

func sized(name string, replicas, available int32, age time.Duration, annotations ...int32) *appsv1.ReplicaSet {
	s := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age)), Annotations: map[string]string{}},
		Spec:       appsv1.ReplicaSetSpec{Replicas: &replicas},
		Status:     appsv1.ReplicaSetStatus{Replicas: replicas, AvailableReplicas: available},
	}
	for i, key := range []string{desiredAnnotation, maxAnnotation} {
		if i < len(annotations) {
			s.Annotations[key] = strconv.Itoa(int(annotations[i]))
		}
	}
	return s
}

func show(plan []resize) (out string) {
	for _, p := range plan {
		out += fmt.Sprintf("%s:%d→%d ", p.set.Name, *p.set.Spec.Replicas, p.to)
	}
	return out
}

func TestRollingStep(t *testing.T) {
	for _, test := range []struct {
		name string
		d    *appsv1.Deployment
		new  *appsv1.ReplicaSet
		old  []*appsv1.ReplicaSet
		want string
	}{
		{"starts by surging", rolling(4, "25%", "25%"), sized("new", 0, 0, 0), []*appsv1.ReplicaSet{sized("old", 4, 4, 1)}, "new:0→1 "},
		{"then takes away what may be missing", rolling(4, "25%", "25%"), sized("new", 1, 0, 0), []*appsv1.ReplicaSet{sized("old", 4, 4, 1)}, "old:4→3 "},
		{"waits while too few are available", rolling(4, "25%", "25%"), sized("new", 2, 0, 0), []*appsv1.ReplicaSet{sized("old", 3, 3, 1)}, ""},
		{"broken old pods go first", rolling(4, "25%", "25%"), sized("new", 1, 0, 0), []*appsv1.ReplicaSet{sized("broken", 2, 0, 2), sized("old", 2, 2, 1)}, "broken:2→1 "},
		{"no surge and no unavailable still moves", rolling(1, "0", "0"), sized("new", 0, 0, 0), []*appsv1.ReplicaSet{sized("old", 1, 1, 1)}, "old:1→0 "},
		{"too large a new set shrinks", rolling(2, "1", "0"), sized("new", 5, 5, 0), nil, "new:5→2 "},
		{"nothing left to do", rolling(2, "1", "0"), sized("new", 2, 2, 0), []*appsv1.ReplicaSet{sized("old", 0, 0, 1)}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := &rollout{d: test.d, new: test.new, old: test.old}
			if got := show(w.rollingStep()); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestRollingUpdateKeepsItsPromise plays whole rollouts, with pods becoming
// available one at a time.
func TestRollingUpdateKeepsItsPromise(t *testing.T) {
	for _, limits := range [][2]string{{"25%", "25%"}, {"1", "0"}, {"0", "1"}, {"0", "0"}, {"100%", "0"}, {"50%", "100%"}} {
		for replicas := int32(1); replicas <= 12; replicas++ {
			d := rolling(replicas, limits[0], limits[1])
			w := &rollout{d: d, new: sized("new", 0, 0, 0), old: []*appsv1.ReplicaSet{sized("old", replicas, replicas, 1)}}
			for step := 0; *w.old[0].Spec.Replicas > 0 || w.new.Status.AvailableReplicas < replicas; step++ {
				if step > 100 {
					t.Fatalf("%d replicas, limits %v: no end: %v", replicas, limits, w.sizes())
				}
				for _, p := range w.rollingStep() {
					*p.set.Spec.Replicas = p.to
					p.set.Status.AvailableReplicas = min(p.set.Status.AvailableReplicas, p.to)
					p.set.Status.Replicas = p.to
				}
				available := w.new.Status.AvailableReplicas + w.old[0].Status.AvailableReplicas
				if total := *w.new.Spec.Replicas + *w.old[0].Spec.Replicas; total > replicas+maxSurge(d) || available < replicas-maxUnavailable(d) {
					t.Fatalf("%d replicas, limits %v: %d pods, %d available", replicas, limits, total, available)
				}
				if w.new.Status.AvailableReplicas < *w.new.Spec.Replicas {
					w.new.Status.AvailableReplicas++
				}
			}
		}
	}
}

func TestProportionalScaling(t *testing.T) {
	// The example of the Deployment documentation: 10 replicas in the middle
	// of a rollout, scaled to 15.
	w := &rollout{d: rolling(15, "3", "2"), new: sized("new", 5, 0, 0, 10, 13), old: []*appsv1.ReplicaSet{sized("old", 8, 8, 1, 10, 13)}}
	if !w.resized() {
		t.Fatal("the change of size was not seen")
	}
	if got, want := show(w.resize()), "old:8→11 new:5→7 "; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	down := &rollout{d: rolling(0, "3", "2"), new: sized("new", 5, 0, 0, 10, 13), old: []*appsv1.ReplicaSet{sized("old", 8, 8, 1, 10, 13)}}
	if got, want := show(down.resize()), "old:8→0 new:5→0 "; got != want {
		t.Errorf("to zero: got %q, want %q", got, want)
	}
}

func TestHistoryStaysShort(t *testing.T) {
	var history string
	for i := range 2000 {
		history = appendHistory(history, strconv.Itoa(i))
	}
	if len(history) > maxHistory || history[len(history)-4:] != "1999" {
		t.Errorf("%d bytes, ending in %s", len(history), history[len(history)-4:])
	}
}

func TestProgress(t *testing.T) {
	now := time.Unix(1e9, 0)
	d := rolling(1, "1", "0")
	d.Spec.ProgressDeadlineSeconds = ptr.To[int32](60)
	w := &rollout{d: d, new: sized("new", 1, 0, 0), now: now}
	reason := func() string { return condition(&d.Status, appsv1.DeploymentProgressing).Reason }
	w.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated", "")
	w.progress()
	if reason() != "ReplicaSetUpdated" {
		t.Errorf("after the first pod: %s", reason())
	}
	w.now = now.Add(61 * time.Second)
	w.progress()
	if reason() != reasonTimedOut {
		t.Errorf("after the deadline: %s", reason())
	}
	w.new.Status.AvailableReplicas, w.new.Status.ReadyReplicas = 1, 1
	w.progress()
	if c := condition(&d.Status, appsv1.DeploymentProgressing); c.Reason != reasonAvailable || c.Message != `ReplicaSet "new" has successfully progressed.` {
		t.Errorf("when complete: %s, %s", c.Reason, c.Message)
	}
}
