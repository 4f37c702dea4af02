package job

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestTracked(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := newMetrics(reg)
	old := &batchv1.Job{Spec: batchv1.JobSpec{CompletionMode: ptr.To(batchv1.IndexedCompletion)}, Status: batchv1.JobStatus{Succeeded: 2}}
	job := old.DeepCopy()
	job.Status.Succeeded, job.Status.Failed = 5, 1
	job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: "BackoffLimitExceeded"}}
	m.tracked(old, job)
	m.tracked(job, job) // nothing new
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range all {
		for _, s := range f.Metric {
			name := f.GetName()
			for _, l := range s.Label {
				name += " " + l.GetValue()
			}
			got[name] = s.Counter.GetValue()
		}
	}
	for series, want := range map[string]float64{
		"job_controller_job_pods_finished_total Indexed succeeded":               3,
		"job_controller_job_pods_finished_total Indexed failed":                  1,
		"job_controller_jobs_finished_total Indexed BackoffLimitExceeded failed": 1,
	} {
		if got[series] != want {
			t.Errorf("%s is %v, want %v: %v", series, got[series], want, got)
		}
	}
}
