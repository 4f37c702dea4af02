package batch

import (
	"fmt"
	"strings"

	"github.com/robfig/cron/v3"
)

// ParseSchedule reads a CronJob's schedule, which may begin with TZ= or
// CRON_TZ= and a time zone.
func ParseSchedule(text string) (cron.Schedule, error) {
	if strings.HasPrefix(text, "TZ=") || strings.HasPrefix(text, "CRON_TZ=") {
		// The parser takes the space after the zone for granted.
		if zone, _, ok := strings.Cut(text, " "); !ok {
			return nil, fmt.Errorf("no times after the time zone: %s", zone)
		}
	}
	return cron.ParseStandard(text)
}
