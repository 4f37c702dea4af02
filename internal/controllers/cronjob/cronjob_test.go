package cronjob_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/cronjob"
	"skiff/internal/controllers/garbagecollector"
)

// world is a cluster whose CronJob controller lives ahead of the API server: what
// is created now was created minutes ago for it.
type world struct {
	*controllertest.Cluster
	t     *testing.T
	clock *testclock.FakeClock
}

func start(t *testing.T) world {
	clk := testclock.NewFakeClock(time.Now().Truncate(time.Minute).Add(5*time.Minute + time.Second))
	w := world{controllertest.StartAt(t, clk), t, clk}
	w.Run("cronjob-controller", cronjob.New)
	return w
}

func (w world) create(name string, change func(*batchv1.CronJobSpec)) {
	cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: batchv1.CronJobSpec{
		Schedule: "* * * * *",
		JobTemplate: batchv1.JobTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"cron": name}, Annotations: map[string]string{"why": "test"}},
			Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "exit:0"}},
			}}},
		},
	}}
	change(&cj.Spec)
	w.Create(cj)
}

func (w world) get(name string) *batchv1.CronJob {
	return controllertest.Get(w.Cluster, "default", name, &batchv1.CronJob{})
}

func (w world) jobs(name string) []batchv1.Job {
	var list batchv1.JobList
	w.List(&list, client.InNamespace("default"), client.MatchingLabels{"cron": name})
	return list.Items
}

// minute lets a minute pass, and makes the controller look at the CronJob.
func (w world) minute(name string) {
	w.clock.Step(time.Minute)
	controllertest.Change(w.Cluster, w.get(name), func(cj *batchv1.CronJob) {
		cj.Annotations = map[string]string{"looked-at": w.clock.Now().String()}
	})
}

func (w world) waitFor(name, what string, ok func(batchv1.CronJobStatus) bool) {
	w.t.Helper()
	w.Eventually(what, &batchv1.CronJobList{}, func() bool { return ok(w.get(name).Status) })
}

func active(n int) func(batchv1.CronJobStatus) bool {
	return func(s batchv1.CronJobStatus) bool { return len(s.Active) == n }
}

// end marks a Job as ended.
func (w world) end(job batchv1.Job, end batchv1.JobConditionType) {
	now := metav1.NewTime(time.Now())
	job.Status.StartTime = &now
	target := batchv1.JobFailureTarget
	if end == batchv1.JobComplete {
		job.Status.CompletionTime, target = &now, batchv1.JobSuccessCriteriaMet
	}
	for _, kind := range []batchv1.JobConditionType{target, end} {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue})
	}
	if err := w.Client.Status().Update(context.Background(), &job); err != nil {
		w.t.Fatal(err)
	}
}

func TestConcurrencyPolicies(t *testing.T) {
	w := start(t)
	for policy, want := range map[batchv1.ConcurrencyPolicy][2]int{
		batchv1.AllowConcurrent: {2, 2}, batchv1.ForbidConcurrent: {1, 1}, batchv1.ReplaceConcurrent: {1, 1},
	} {
		name := map[batchv1.ConcurrencyPolicy]string{batchv1.AllowConcurrent: "allow", batchv1.ForbidConcurrent: "forbid", batchv1.ReplaceConcurrent: "replace"}[policy]
		w.create(name, func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = policy })
		w.waitFor(name, "first job", active(1))
		first := w.jobs(name)[0]
		if wanted := fmt.Sprintf("%s-%d", name, w.clock.Now().Unix()/60); first.Name != wanted {
			t.Errorf("job %s, want %s", first.Name, wanted)
		}
		if got, wanted := first.Annotations[batchv1.CronJobScheduledTimestampAnnotation], w.clock.Now().UTC().Truncate(time.Minute).Format(time.RFC3339); got != wanted || first.Annotations["why"] != "test" {
			t.Errorf("annotations %v, want the time %s", first.Annotations, wanted)
		}
		w.minute(name)
		switch policy {
		case batchv1.AllowConcurrent:
			w.waitFor(name, "second job", active(2))
		case batchv1.ForbidConcurrent:
			w.WaitForEvent("default", name, "JobAlreadyActive")
		case batchv1.ReplaceConcurrent:
			w.waitFor(name, "replacement", func(s batchv1.CronJobStatus) bool { return len(s.Active) == 1 && s.Active[0].Name != first.Name })
			w.WaitForEvent("default", name, "SuccessfulDelete")
		}
		if status := w.get(name).Status; len(status.Active) != want[0] {
			t.Errorf("%s: %d active, want %d", policy, len(status.Active), want[0])
		}
	}
}

func TestHistory(t *testing.T) {
	w := start(t)
	w.create("tidy", func(s *batchv1.CronJobSpec) {
		s.SuccessfulJobsHistoryLimit, s.FailedJobsHistoryLimit = ptr.To[int32](1), ptr.To[int32](0)
	})
	var seen []string
	for i, end := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed, batchv1.JobComplete} {
		if i > 0 {
			w.minute("tidy")
		}
		w.waitFor("tidy", "a job", active(1))
		for _, j := range w.jobs("tidy") {
			if !slices.Contains(seen, j.Name) {
				seen = append(seen, j.Name)
				w.end(j, end)
			}
		}
		w.waitFor("tidy", "end of the job", active(0))
	}
	w.Eventually("one job is kept", &batchv1.JobList{}, func() bool {
		jobs := w.jobs("tidy")
		return len(jobs) == 1 && jobs[0].Name == seen[2]
	})
	if w.get("tidy").Status.LastSuccessfulTime == nil {
		t.Error("the last success has no time")
	}
	if got, want := w.WaitForEvent("default", "tidy", "SawCompletedJob"), "Saw completed job: "+seen[0]+", condition: Complete"; got != want {
		t.Errorf("event %q, want %q", got, want)
	}
}

func TestSuspensionAndRestarts(t *testing.T) {
	w := start(t)
	w.create("later", func(s *batchv1.CronJobSpec) { s.Suspend = ptr.To(true) })
	w.create("marker", func(*batchv1.CronJobSpec) {})
	w.waitFor("marker", "another cron job", active(1))
	if jobs := w.jobs("later"); len(jobs) != 0 {
		t.Errorf("%d jobs of a suspended cron job", len(jobs))
	}
	controllertest.Change(w.Cluster, w.get("later"), func(cj *batchv1.CronJob) { cj.Spec.Suspend = ptr.To(false) })
	w.waitFor("later", "a job after the suspension", active(1))

	// A controller that ended between making a Job and noting it takes it up.
	cj := w.get("later")
	cj.Status = batchv1.CronJobStatus{}
	if err := w.Client.Status().Update(context.Background(), cj); err != nil {
		t.Fatal(err)
	}
	w.waitFor("later", "the job is noted again", active(1))
	if jobs := w.jobs("later"); len(jobs) != 1 {
		t.Errorf("%d jobs at one time", len(jobs))
	}

	// And time passes by itself.
	w.waitForTimer("marker", 2)
}

// A Job that was made and not noted before the controller ended counts, though
// its time is over: it is replaced, and one that somebody made by hand is not.
func TestForgottenJobs(t *testing.T) {
	w := start(t)
	w.create("replace", func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy, s.Suspend = batchv1.ReplaceConcurrent, ptr.To(true) })
	cj := w.get("replace")
	at := w.clock.Now().Truncate(time.Minute).Add(-time.Minute)
	job := func(name string, annotations map[string]string) *batchv1.Job {
		return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"cron": "replace"}, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, batchv1.SchemeGroupVersion.WithKind("CronJob"))}}, Spec: cj.Spec.JobTemplate.Spec}
	}
	forgotten := job(fmt.Sprintf("replace-%d", at.Unix()/60), map[string]string{batchv1.CronJobScheduledTimestampAnnotation: at.Format(time.RFC3339)})
	w.Create(forgotten, job("by-hand", map[string]string{"cronjob.kubernetes.io/instantiate": "manual"}))
	w.waitFor("replace", "the forgotten job is noted", func(s batchv1.CronJobStatus) bool {
		return len(s.Active) == 1 && s.Active[0].Name == forgotten.Name && s.LastScheduleTime.Time.Equal(at)
	})
	if got, want := w.WaitForEvent("default", "replace", "UnexpectedJob"), "Saw a job that the controller did not create or forgot: by-hand"; got != want {
		t.Errorf("said %q, want %q", got, want)
	}
	controllertest.Change(w.Cluster, cj, func(cj *batchv1.CronJob) { cj.Spec.Suspend = ptr.To(false) })
	w.waitFor("replace", "it is replaced", func(s batchv1.CronJobStatus) bool { return len(s.Active) == 1 && s.Active[0].Name != forgotten.Name })
	if jobs := w.jobs("replace"); len(jobs) != 2 {
		t.Errorf("%d jobs, want the present one and that of somebody else", len(jobs))
	}
}

// Jobs that were left behind by a CronJob are nobody's, also if another has its
// name.
func TestOrphans(t *testing.T) {
	w := start(t)
	w.Run("generic-garbage-collector", func(d controller.Deps) (controller.Runnable, error) { return garbagecollector.New(d, w.Discover) })
	forbid := func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = batchv1.ForbidConcurrent }
	w.create("left", forbid)
	w.waitFor("left", "a job", active(1))
	orphan := w.jobs("left")[0]
	first := w.get("left")
	w.Delete(first, client.PropagationPolicy(metav1.DeletePropagationOrphan))
	w.Eventually("the end of the first", &batchv1.CronJobList{}, func() bool {
		return apierrors.IsNotFound(w.Client.Get(context.Background(), client.ObjectKeyFromObject(first), &batchv1.CronJob{}))
	})
	w.create("left", forbid)
	w.minute("left")
	w.waitFor("left", "a job of its own", func(s batchv1.CronJobStatus) bool { return len(s.Active) == 1 && s.Active[0].UID != orphan.UID })
	for _, j := range w.jobs("left") {
		if owned := metav1.IsControlledBy(&j, w.get("left")); owned == (j.UID == orphan.UID) {
			t.Errorf("job %s, owned: %t", j.Name, owned)
		}
	}
}

// waitForTimer lets the clock run until a CronJob has n Jobs.
func (w world) waitForTimer(name string, n int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	watch, err := w.Client.Watch(ctx, &batchv1.JobList{})
	if err != nil {
		w.t.Fatal(err)
	}
	defer watch.Stop()
	for len(w.jobs(name)) < n {
		select {
		case <-watch.ResultChan():
		case <-time.After(20 * time.Millisecond):
			w.clock.Step(10 * time.Second)
		case <-ctx.Done():
			w.t.Fatalf("%s has no %d jobs although time passes", name, n)
		}
	}
}
