package cronjob_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controllertest"
)

// TestEventsInUpstreamsWords has something of each kind happen to CronJobs, and
// compares what is said of it.
func TestEventsInUpstreamsWords(t *testing.T) {
	w := start(t)
	said := func(name, reason, want string) {
		t.Helper()
		if got := w.WaitForEvent("default", name, reason); !strings.HasPrefix(got, want) {
			t.Errorf("of %s: %q, want %q", name, got, want)
		}
	}
	at := w.clock.Now().Truncate(time.Minute)
	job := func(name string, at time.Time) string { return fmt.Sprintf("%s-%d", name, at.Unix()/60) }

	w.create("missed", func(s *batchv1.CronJobSpec) { s.Suspend = ptr.To(true) })
	missed := w.get("missed")
	missed.Status.LastScheduleTime = &metav1.Time{Time: at.Add(-3 * time.Hour)}
	if err := w.Client.Status().Update(context.Background(), missed); err != nil {
		t.Fatal(err)
	}
	controllertest.Change(w.Cluster, missed, func(cj *batchv1.CronJob) { cj.Spec.Suspend = ptr.To(false) })
	said("missed", "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")

	for name, policy := range map[string]batchv1.ConcurrencyPolicy{"forbid": batchv1.ForbidConcurrent, "replace": batchv1.ReplaceConcurrent} {
		w.create(name, func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = policy })
		w.waitFor(name, "a job", active(1))
		said(name, "SuccessfulCreate", "Created job "+job(name, at))
	}
	w.minute("forbid")
	said("forbid", "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
	w.minute("replace")
	said("replace", "SuccessfulDelete", "Deleted job "+job("replace", at))
	w.Delete(&batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: job("forbid", at)}}, client.PropagationPolicy(metav1.DeletePropagationBackground))
	// It is no longer there to be looked up when something else happens.
	w.minute("forbid")
	said("forbid", "MissingJob", "Active job went missing: "+job("forbid", at))

	none := corev1.ResourceList{"count/jobs.batch": resource.MustParse("0")}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "none"}, Spec: corev1.ResourceQuotaSpec{Hard: none}}
	w.Create(quota)
	quota.Status = corev1.ResourceQuotaStatus{Hard: none, Used: none}
	if err := w.Client.Status().Update(context.Background(), quota); err != nil {
		t.Fatal(err)
	}
	w.create("fails", func(*batchv1.CronJobSpec) {})
	said("fails", "FailedCreate", "Error creating job: jobs.batch \"fails-")
}
