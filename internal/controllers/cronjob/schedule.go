package cronjob

import (
	"errors"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"

	"skiff/internal/apis/batch"
)

// tooMany missed times are worth a warning.
const tooMany = 100

// parse reads a CronJob's schedule; times in it are those of its time zone, or
// else of this machine.
func parse(cj *batchv1.CronJob) (cron.Schedule, error) {
	text := cj.Spec.Schedule
	if cj.Spec.TimeZone != nil && !strings.Contains(text, "TZ") {
		text = "TZ=" + *cj.Spec.TimeZone + " " + text
	}
	return batch.ParseSchedule(text)
}

// due returns the last time that has come and was not used, or nil; many says
// that more than tooMany were missed. since is the time after which none was
// used.
func due(s cron.Schedule, since, now time.Time) (at *time.Time, many bool, err error) {
	first := s.Next(since)
	if first.IsZero() || now.Before(first) {
		return nil, false, nil
	}
	second := s.Next(first)
	if second.IsZero() || now.Before(second) {
		return &first, false, nil
	}
	between := second.Sub(first).Round(time.Second)
	if between < time.Second {
		return nil, false, errors.New("time difference between two schedules is less than 1 second")
	}
	// Years may have been missed: jump to the neighbourhood of now.
	missed := int64(now.Sub(first)/between) + 1
	last := first
	for t := s.Next(first.Add(time.Duration(missed-2) * between)); !t.IsZero() && !t.After(now); t = s.Next(t) {
		last = t
	}
	return &last, missed > tooMany, nil
}

// lastUsed is the time after which no time of the schedule was used.
func lastUsed(cj *batchv1.CronJob) time.Time {
	if cj.Status.LastScheduleTime != nil {
		return cj.Status.LastScheduleTime.Local()
	}
	return cj.CreationTimestamp.Local()
}

// unmet is due for a CronJob: times beyond its starting deadline do not count.
func unmet(cj *batchv1.CronJob, s cron.Schedule, now time.Time) (at *time.Time, many bool, err error) {
	since := lastUsed(cj)
	if d := cj.Spec.StartingDeadlineSeconds; d != nil {
		if deadline := now.Add(-time.Duration(*d) * time.Second); deadline.After(since) {
			since = deadline
		}
	}
	return due(s, since, now)
}

// next returns how long it is until the schedule's next time; 0 if there is
// none.
func next(cj *batchv1.CronJob, s cron.Schedule, now time.Time) time.Duration {
	from := lastUsed(cj)
	if at, _, err := due(s, from, now); err == nil && at != nil {
		from = *at
	} else if from.Before(now) {
		from = now
	}
	at := s.Next(from)
	if at.IsZero() {
		return 0
	}
	return max(at.Sub(now), time.Millisecond)
}
