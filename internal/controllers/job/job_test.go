package job

import (
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func TestIndexes(t *testing.T) {
	for text, want := range map[string]string{"": "", "3": "3", "0-2": "0-2", "1,2": "1,2", "1,3-5,7": "1,3-5,7", "0,1,2,9": "0-2,9", "5-20": "5-9", "x,1": "1"} {
		if got := parseIndexes(text, 10).String(); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func FuzzIndexes(f *testing.F) {
	f.Add("1,3-5,7")
	f.Fuzz(func(t *testing.T, text string) {
		var s indexes
		for _, i := range parseIndexes(text, 100) {
			if i >= 0 {
				s = s.with(i)
			}
		}
		if again := parseIndexes(s.String(), 100); !slices.Equal(s, again) {
			t.Errorf("%v became %v", s, again)
		}
	})
}

func pod(name string, phase corev1.PodPhase, deleted bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Finalizers: []string{batchv1.JobTrackingFinalizer}}, Status: corev1.PodStatus{Phase: phase}}
	if deleted {
		p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	}
	return p
}

func TestTally(t *testing.T) {
	running, ok, bad := corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed
	for _, test := range []struct {
		name              string
		job               batchv1.Job
		pods              []*corev1.Pod
		active, wanted    int
		succeeded, failed int32
		outcome           string
	}{
		{"starts", batchv1.Job{Spec: batchv1.JobSpec{Completions: ptr.To[int32](3), Parallelism: ptr.To[int32](2)}}, nil, 0, 2, 0, 0, ""},
		{"goes on", batchv1.Job{Spec: batchv1.JobSpec{Completions: ptr.To[int32](3), Parallelism: ptr.To[int32](2)}},
			[]*corev1.Pod{pod("a", ok, false), pod("b", ok, false), pod("c", running, false)}, 1, 1, 2, 0, ""},
		{"is complete", batchv1.Job{Spec: batchv1.JobSpec{Completions: ptr.To[int32](1)}}, []*corev1.Pod{pod("a", ok, false)}, 0, 0, 1, 0, "CompletionsReached"},
		{"counts what is in the status once", batchv1.Job{
			Spec:   batchv1.JobSpec{Completions: ptr.To[int32](3), Parallelism: ptr.To[int32](3)},
			Status: batchv1.JobStatus{Succeeded: 1, UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{"a"}}},
		}, []*corev1.Pod{pod("a", ok, false)}, 0, 1, 2, 0, ""},
		{"a deleted pod failed", batchv1.Job{Spec: batchv1.JobSpec{Completions: ptr.To[int32](1)}}, []*corev1.Pod{pod("a", running, true)}, 0, 1, 0, 1, ""},
		{"unless only ended ones are replaced", batchv1.Job{Spec: batchv1.JobSpec{Completions: ptr.To[int32](1), PodReplacementPolicy: ptr.To(batchv1.Failed)}},
			[]*corev1.Pod{pod("a", running, true)}, 0, 1, 0, 0, ""},
		{"has failed too often", batchv1.Job{Spec: batchv1.JobSpec{Completions: ptr.To[int32](1), BackoffLimit: ptr.To[int32](1)}},
			[]*corev1.Pod{pod("a", bad, false), pod("b", bad, false)}, 0, 1, 0, 2, "BackoffLimitExceeded"},
		{"a work queue waits for the others", batchv1.Job{Spec: batchv1.JobSpec{Parallelism: ptr.To[int32](3)}},
			[]*corev1.Pod{pod("a", ok, false), pod("b", running, false)}, 1, 1, 1, 0, ""},
		{"is suspended", batchv1.Job{Spec: batchv1.JobSpec{Completions: ptr.To[int32](1), Suspend: ptr.To(true)}}, []*corev1.Pod{pod("a", running, false)}, 1, 0, 0, 0, ""},
		{"took too long", batchv1.Job{
			Spec:   batchv1.JobSpec{Completions: ptr.To[int32](1), ActiveDeadlineSeconds: ptr.To[int64](10)},
			Status: batchv1.JobStatus{StartTime: &metav1.Time{Time: time.Unix(80, 0)}},
		}, []*corev1.Pod{pod("a", running, false)}, 1, 1, 0, 0, "DeadlineExceeded"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newTally(&test.job, test.pods, time.Unix(100, 0))
			outcome := ""
			if c := s.judge(); c != nil {
				outcome = c.Reason
			}
			if len(s.active) != test.active || s.wanted() != test.wanted || s.nSucceeded != test.succeeded || s.nFailed != test.failed || outcome != test.outcome {
				t.Errorf("active %d, wanted %d, succeeded %d, failed %d, outcome %q", len(s.active), s.wanted(), s.nSucceeded, s.nFailed, outcome)
			}
		})
	}
}

func TestSuccessPolicy(t *testing.T) {
	for _, test := range []struct {
		rule batchv1.SuccessPolicyRule
		done string
		want bool
	}{
		{batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("0,2-3")}, "0,2,3", true},
		{batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("0,2-3")}, "0,2", false},
		{batchv1.SuccessPolicyRule{SucceededCount: ptr.To[int32](2)}, "1,7", true},
		{batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("0-4"), SucceededCount: ptr.To[int32](2)}, "1,7", false},
	} {
		policy := &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{test.rule}}
		if _, got := succeeds(policy, parseIndexes(test.done, 10), 10); got != test.want {
			t.Errorf("%+v with %s: %v", test.rule, test.done, got)
		}
	}
}

func TestBackoff(t *testing.T) {
	at := time.Unix(1000, 0)
	for failures, want := range map[int]time.Duration{0: 0, 1: 10 * time.Second, 3: 40 * time.Second, 7: 10 * time.Minute, 100: 10 * time.Minute} {
		if got := left(failures, at, at); got != want {
			t.Errorf("%d failures: %s, want %s", failures, got, want)
		}
	}
}
