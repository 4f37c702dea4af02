package cronjob

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func at(text string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		panic(err)
	}
	return t.UTC()
}

func TestUnmet(t *testing.T) {
	const created = "2026-01-01 00:00:30"
	for _, test := range []struct {
		name, schedule, zone, last, now string
		deadline                        int64
		want, next                      string
		many, bad                       bool
	}{
		{name: "not yet", schedule: "0 * * * *", now: "2026-01-01 00:30:00", next: "30m"},
		{name: "now", schedule: "0 * * * *", now: "2026-01-01 01:00:00", want: "2026-01-01 01:00:00", next: "1h"},
		{name: "late", schedule: "0 * * * *", now: "2026-01-01 01:00:10", want: "2026-01-01 01:00:00", next: "59m50s"},
		{name: "already used", schedule: "0 * * * *", last: "2026-01-01 01:00:00", now: "2026-01-01 01:00:10", next: "59m50s"},
		{name: "a few missed", schedule: "0 * * * *", now: "2026-01-01 05:10:00", want: "2026-01-01 05:00:00", next: "50m"},
		{name: "very many missed", schedule: "* * * * *", now: "2026-03-01 00:00:10", want: "2026-03-01 00:00:00", next: "50s", many: true},
		{name: "too late", schedule: "0 * * * *", now: "2026-01-01 01:00:10", deadline: 5, next: "59m50s"},
		{name: "late but not too late", schedule: "0 * * * *", now: "2026-01-01 01:00:10", deadline: 15, want: "2026-01-01 01:00:00", next: "59m50s"},
		{name: "a deadline makes many missed few", schedule: "* * * * *", now: "2026-03-01 00:00:10", deadline: 200, want: "2026-03-01 00:00:00", next: "50s"},
		{name: "time zone", schedule: "0 12 * * *", zone: "America/New_York", now: "2026-01-01 17:00:00", want: "2026-01-01 17:00:00", next: "24h"},
		{name: "an hour that daylight saving skips", schedule: "30 2 * * *", zone: "America/New_York", last: "2026-03-07 07:30:00", now: "2026-03-08 12:00:00", next: "18h30m"},
		{name: "irregular", schedule: "0 8,20 1 * *", now: "2026-02-01 09:00:00", want: "2026-02-01 08:00:00", next: "11h"},
		{name: "every", schedule: "@every 90s", now: "2026-01-01 00:04:00", want: "2026-01-01 00:03:30", next: "1m"},
		{name: "never", schedule: "59 23 31 2 *", now: "2026-01-01 01:00:00", next: "0s"},
		{name: "the clock went back", schedule: "0 * * * *", last: "2026-01-01 05:00:00", now: "2026-01-01 03:00:00", next: "3h"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(at(created))}, Spec: batchv1.CronJobSpec{Schedule: test.schedule, TimeZone: ptr.To("UTC")}}
			if test.zone != "" {
				cj.Spec.TimeZone = &test.zone
			}
			if test.deadline > 0 {
				cj.Spec.StartingDeadlineSeconds = &test.deadline
			}
			if test.last != "" {
				cj.Status.LastScheduleTime = &metav1.Time{Time: at(test.last)}
			}
			s, err := parse(cj)
			if err != nil {
				t.Fatal(err)
			}
			got, many, err := unmet(cj, s, at(test.now))
			if err != nil {
				t.Fatal(err)
			}
			text := ""
			if got != nil {
				text = got.UTC().Format("2006-01-02 15:04:05")
			}
			if text != test.want || many != test.many {
				t.Errorf("got %q (many: %v), want %q (many: %v)", text, many, test.want, test.many)
			}
			if want, _ := time.ParseDuration(test.next); next(cj, s, at(test.now)) != want {
				t.Errorf("next in %s, want %s", next(cj, s, at(test.now)), want)
			}
		})
	}
}
