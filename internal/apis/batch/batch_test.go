package batch

import (
	"context"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

func newJob(t *testing.T) *batchv1.Job {
	r := checkstest.Find(t, Resources(), "jobs")
	j := checkstest.Parse[*batchv1.Job](t, r, `
metadata: {name: sum, namespace: default, uid: "1234", resourceVersion: "7"}
spec:
  template:
    metadata: {labels: {app: sum}}
    spec: {restartPolicy: Never, containers: [{name: main, image: bc}]}
`)
	r.PrepareCreate(context.Background(), j)
	return j
}

func TestJobDefaults(t *testing.T) {
	j := newJob(t)
	s := j.Spec
	if *s.Completions != 1 || *s.Parallelism != 1 || *s.BackoffLimit != 6 || *s.CompletionMode != batchv1.NonIndexedCompletion ||
		*s.Suspend || *s.ManualSelector || *s.PodReplacementPolicy != batchv1.TerminatingOrFailed {
		t.Errorf("wrong defaults: %+v", s)
	}
	if len(j.Labels) != 1 || j.Labels["app"] != "sum" {
		t.Errorf("the job's labels are not those the template had: %v", j.Labels)
	}
	for key, want := range map[string]string{
		"app": "sum", "job-name": "sum", "controller-uid": "1234",
		"batch.kubernetes.io/job-name": "sum", "batch.kubernetes.io/controller-uid": "1234",
	} {
		if got := s.Template.Labels[key]; got != want {
			t.Errorf("template label %s is %q, want %q", key, got, want)
		}
	}
	if got := s.Selector.MatchLabels; len(got) != 1 || got["batch.kubernetes.io/controller-uid"] != "1234" {
		t.Errorf("selector is %v", got)
	}
	perIndex := &batchv1.Job{Spec: batchv1.JobSpec{BackoffLimitPerIndex: ptr.To[int32](1)}}
	defaultJob(perIndex)
	if *perIndex.Spec.BackoffLimit != 1<<31-1 {
		t.Errorf("backoffLimit is %d beside backoffLimitPerIndex", *perIndex.Spec.BackoffLimit)
	}
}

func TestJobValidation(t *testing.T) {
	change := checkstest.Change[*batchv1.Job]
	r := checkstest.Find(t, Resources(), "jobs")
	indexed := func(completions, parallelism int32) func(j *batchv1.Job) {
		return func(j *batchv1.Job) {
			j.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion)
			j.Spec.Completions, j.Spec.Parallelism = &completions, &parallelism
		}
	}
	policy := func(rule batchv1.PodFailurePolicyRule) func(j *batchv1.Job) {
		return func(j *batchv1.Job) {
			j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{rule}}
			j.Spec.PodReplacementPolicy = ptr.To(batchv1.Failed)
		}
	}
	checkstest.Create(t, r, newJob(t),
		change("negative", func(j *batchv1.Job) { j.Spec.Parallelism = ptr.To[int32](-1) },
			"spec.parallelism: Invalid value: must be greater than or equal to 0"),
		change("always", func(j *batchv1.Job) { j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyAlways },
			`spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`),
		change("user's uid label", func(j *batchv1.Job) { j.Spec.Template.Labels["controller-uid"] = "x" },
			"spec.template.metadata.labels[controller-uid]: Invalid value: must be '1234'"),
		change("user's selector", func(j *batchv1.Job) { j.Spec.Selector.MatchLabels["app"] = "sum" },
			"spec.selector: Invalid value: `selector` not auto-generated"),
		change("mode", func(j *batchv1.Job) { j.Spec.CompletionMode = ptr.To[batchv1.CompletionMode]("Random") },
			`spec.completionMode: Unsupported value: supported values: "NonIndexed", "Indexed"`),
		change("indexed without completions", func(j *batchv1.Job) {
			indexed(1, 1)(j)
			j.Spec.Completions = nil
		}, "spec.completions: Required value: when completion mode is Indexed"),
		change("indexed too parallel", indexed(200_000, 100_001),
			"spec.parallelism: Invalid value: must be less than or equal to 100000 when completion mode is Indexed"),
		change("per index", func(j *batchv1.Job) { j.Spec.BackoffLimitPerIndex = ptr.To[int32](1) },
			"spec.backoffLimitPerIndex: Invalid value: requires indexed completion mode"),
		change("failed indexes alone", func(j *batchv1.Job) {
			indexed(3, 1)(j)
			j.Spec.MaxFailedIndexes = ptr.To[int32](4)
		}, "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified", "spec.maxFailedIndexes: Invalid value: must be less than or equal to completions"),
		change("rule without condition", policy(batchv1.PodFailurePolicyRule{Action: "FailJob"}),
			"spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required"),
		change("exit codes", policy(batchv1.PodFailurePolicyRule{Action: "FailIndex", OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
			Operator: "In", ContainerName: ptr.To("other"), Values: []int32{3, 1, 0, 1},
		}}),
			"spec.podFailurePolicy.rules[0].action: Invalid value: requires the backoffLimitPerIndex to be set",
			"spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: must be one of the container or initContainer names in the pod template",
			"spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: must be ordered",
			"spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Invalid value: must not be 0 for the In operator",
			"spec.podFailurePolicy.rules[0].onExitCodes.values[3]: Duplicate value: "),
		change("failure policy restarts", func(j *batchv1.Job) {
			policy(batchv1.PodFailurePolicyRule{Action: "Ignore", OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: "DisruptionTarget", Status: "True"}}})(j)
			j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
			j.Spec.PodReplacementPolicy = ptr.To(batchv1.TerminatingOrFailed)
		},
			`spec.podReplacementPolicy: Unsupported value: supported values: "Failed"`,
			`spec.template.spec.restartPolicy: Invalid value: only "Never" is supported when podFailurePolicy is specified`),
		change("success policy", func(j *batchv1.Job) { j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{} },
			"spec.successPolicy: Invalid value: requires indexed completion mode"),
		change("success rules", func(j *batchv1.Job) {
			indexed(5, 5)(j)
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{
				{}, {SucceededIndexes: ptr.To("0-2"), SucceededCount: ptr.To[int32](4)}, {SucceededIndexes: ptr.To("5")}, {SucceededCount: ptr.To[int32](6)},
			}}
		},
			"spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
			"spec.successPolicy.rules[1].succeededCount: Invalid value: must be less than or equal to 3 (the number of indexes in the specified succeededIndexes field)",
			`spec.successPolicy.rules[2].succeededIndexes: Invalid value: error parsing succeededIndexes: too large index: "5"`,
			"spec.successPolicy.rules[3].succeededCount: Invalid value: must be less than or equal to 5 (the number of specified completions)"),
		change("long name", func(j *batchv1.Job) {
			indexed(1000, 1)(j)
			j.Name = strings.Repeat("a", 61)
			for _, key := range []string{"job-name", "batch.kubernetes.io/job-name"} {
				j.Spec.Template.Labels[key] = j.Name
			}
		}, "metadata.name: Invalid value: will not able to create pod with invalid DNS label: "+strings.Repeat("a", 61)+"-999"),
	)
}

func TestJobUpdate(t *testing.T) {
	change := checkstest.Change[*batchv1.Job]
	r := checkstest.Find(t, Resources(), "jobs")
	image := func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Image = "dc" }
	node := func(j *batchv1.Job) { j.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"} }
	const template = "spec.template: Invalid value: field is immutable"
	running := newJob(t)
	checkstest.Update(t, r, running,
		change("suspend", func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) }),
		change("parallelism", func(j *batchv1.Job) { j.Spec.Parallelism = ptr.To[int32](3) }),
		change("completions", func(j *batchv1.Job) { j.Spec.Completions = ptr.To[int32](3) }, "spec.completions: Invalid value: field is immutable"),
		change("image", image, template),
		change("node selector", node, template),
		change("managedBy", func(j *batchv1.Job) { j.Spec.ManagedBy = ptr.To("example.com/other") }, "spec.managedBy: Invalid value: field is immutable"),
	)
	suspended := newJob(t)
	suspended.Spec.Suspend = ptr.To(true)
	checkstest.Update(t, r, suspended,
		change("suspended image", image, template),
		change("suspended node selector", node),
	)
	indexed := newJob(t)
	indexed.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion)
	checkstest.Update(t, r, indexed,
		change("elastic", func(j *batchv1.Job) { j.Spec.Completions, j.Spec.Parallelism = ptr.To[int32](3), ptr.To[int32](3) }),
		change("completions alone", func(j *batchv1.Job) { j.Spec.Completions = ptr.To[int32](3) },
			"spec.completions: Invalid value: can only be modified in tandem with spec.parallelism"),
	)
}

func TestGeneratedSelectorOfTwoJobs(t *testing.T) {
	a, b := newJob(t), newJob(t)
	b.UID = types.UID("5678")
	b.Spec.Selector, b.Spec.Template.Labels = nil, nil
	generateSelector(b)
	if a.Spec.Selector.MatchLabels["batch.kubernetes.io/controller-uid"] == b.Spec.Selector.MatchLabels["batch.kubernetes.io/controller-uid"] {
		t.Error("two jobs select the same pods")
	}
}

func TestCronJob(t *testing.T) {
	change := checkstest.Change[*batchv1.CronJob]
	r := checkstest.Find(t, Resources(), "cronjobs")
	valid := checkstest.Parse[*batchv1.CronJob](t, r, `
metadata: {name: nightly, namespace: default}
spec:
  schedule: "0 3 * * *"
  timeZone: Etc/UTC
  jobTemplate:
    spec:
      template:
        spec: {restartPolicy: OnFailure, containers: [{name: main, image: bc}]}
`)
	if s := valid.Spec; s.ConcurrencyPolicy != "Allow" || *s.Suspend || *s.SuccessfulJobsHistoryLimit != 3 || *s.FailedJobsHistoryLimit != 1 {
		t.Errorf("wrong defaults: %+v", s)
	}
	checkstest.Create(t, r, valid,
		change("no schedule", func(c *batchv1.CronJob) { c.Spec.Schedule = "" }, "spec.schedule: Required value: "),
		change("schedule", func(c *batchv1.CronJob) { c.Spec.Schedule = "often" }, "spec.schedule: Invalid value: expected exactly 5 fields, found 1: [often]"),
		change("zone in schedule", func(c *batchv1.CronJob) { c.Spec.Schedule, c.Spec.TimeZone = "TZ=UTC 0 * * * *", nil },
			"spec.schedule: Invalid value: cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
		change("empty zone", func(c *batchv1.CronJob) { c.Spec.TimeZone = ptr.To("") }, "spec.timeZone: Invalid value: timeZone must be nil or non-empty string"),
		change("local zone", func(c *batchv1.CronJob) { c.Spec.TimeZone = ptr.To("Local") },
			"spec.timeZone: Invalid value: timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"),
		change("concurrency", func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = "Some" },
			`spec.concurrencyPolicy: Unsupported value: supported values: "Allow", "Forbid", "Replace"`),
		change("selector", func(c *batchv1.CronJob) { c.Spec.JobTemplate.Spec.ManualSelector = ptr.To(true) },
			`spec.jobTemplate.spec.manualSelector: Unsupported value: supported values: "nil", "false"`),
		change("name", func(c *batchv1.CronJob) { c.Name = strings.Repeat("a", 53) }, "metadata.name: Invalid value: must be no more than 52 characters"),
	)
}

func TestSchedules(t *testing.T) {
	for schedule, want := range map[string]string{
		"* * * * *": "", "*/15 0-6,22 1 jan-MAR mon": "", "@hourly": "", "@every 1h30m": "", "0 0 ? * 5/2": "", "TZ=UTC 1 2 3 4 5": "",
		"":                  "empty spec string",
		"60 * * * *":        "end of range (60) above maximum (59): 60",
		"* * 0 * *":         "beginning of range (0) below minimum (1): 0",
		"5-3 * * * *":       "beginning of range (5) beyond end of range (3): 5-3",
		"*/0 * * * *":       "step of range should be a positive number: */0",
		"1-2-3 * * * *":     "too many hyphens: 1-2-3",
		"1/2/3 * * * *":     "too many slashes: 1/2/3",
		"a * * * *":         `failed to parse int from a: strconv.Atoi: parsing "a": invalid syntax`,
		"@fortnightly":      "unrecognized descriptor: @fortnightly",
		"@every blue":       `failed to parse duration @every blue: time: invalid duration "blue"`,
		"TZ=Moon 1 2 3 4 5": "provided bad location Moon: unknown time zone Moon",
		"TZ=UTC":            "no times after the time zone: TZ=UTC",
	} {
		got := ""
		if _, err := ParseSchedule(schedule); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", schedule, got, want)
		}
	}
}

func FuzzSchedule(f *testing.F) {
	f.Add("*/5 1-2,3 * jan mon")
	f.Add("TZ=UTC @every 1h")
	f.Fuzz(func(t *testing.T, schedule string) {
		if _, err := ParseSchedule(schedule); err == nil && strings.TrimSpace(schedule) == "" {
			t.Errorf("%q is taken for a schedule", schedule)
		}
	})
}

func FuzzIndexes(f *testing.F) {
	f.Add("1,3-5,7", int32(10))
	f.Fuzz(func(t *testing.T, list string, completions int32) {
		if n, err := countIndexes(list, completions); err == nil && (n < 0 || n > max(completions, 0)) {
			t.Errorf("%q counts %d of %d", list, n, completions)
		}
	})
}
