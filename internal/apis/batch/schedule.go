package batch

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// bound is what one field of a schedule may hold.
type bound struct {
	low, high uint
	names     []string // from low upwards
}

// scheduleBounds are those of minute, hour, day of month, month, day of week.
func scheduleBounds() []bound {
	return []bound{
		{low: 0, high: 59},
		{low: 0, high: 23},
		{low: 1, high: 31},
		{low: 1, high: 12, names: []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
		{low: 0, high: 6, names: []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
	}
}

// checkSchedule reports what is wrong with a schedule in cron's format: five
// fields or a descriptor such as @hourly, after an optional time zone.
func checkSchedule(schedule string) error {
	if schedule == "" {
		return fmt.Errorf("empty spec string")
	}
	if strings.HasPrefix(schedule, "TZ=") || strings.HasPrefix(schedule, "CRON_TZ=") {
		zone, rest, _ := strings.Cut(schedule, " ")
		_, zone, _ = strings.Cut(zone, "=")
		if _, err := time.LoadLocation(zone); err != nil {
			return fmt.Errorf("provided bad location %s: %v", zone, err)
		}
		schedule = strings.TrimSpace(rest)
	}
	if strings.HasPrefix(schedule, "@") {
		return checkDescriptor(schedule)
	}
	fields, bounds := strings.Fields(schedule), scheduleBounds()
	if len(fields) != len(bounds) {
		return fmt.Errorf("expected exactly %d fields, found %d: %s", len(bounds), len(fields), fields)
	}
	for i, f := range fields {
		for _, part := range strings.FieldsFunc(f, func(r rune) bool { return r == ',' }) {
			if err := checkRange(part, bounds[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkDescriptor(d string) error {
	switch d {
	case "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly":
		return nil
	}
	if every, ok := strings.CutPrefix(d, "@every "); ok {
		if _, err := time.ParseDuration(every); err != nil {
			return fmt.Errorf("failed to parse duration %s: %s", d, err)
		}
		return nil
	}
	return fmt.Errorf("unrecognized descriptor: %s", d)
}

// checkRange checks one of "*", "n", "n-m", each with an optional "/step".
func checkRange(expr string, b bound) error {
	parts := strings.Split(expr, "/")
	limits := strings.Split(parts[0], "-")
	start, end := b.low, b.high
	if limits[0] != "*" && limits[0] != "?" {
		var err error
		if start, err = scheduleNumber(limits[0], b); err != nil {
			return err
		}
		switch len(limits) {
		case 1:
			end = start
		case 2:
			if end, err = scheduleNumber(limits[1], b); err != nil {
				return err
			}
		default:
			return fmt.Errorf("too many hyphens: %s", expr)
		}
	}
	switch len(parts) {
	case 1:
	case 2:
		step, err := parseNumber(parts[1])
		if err != nil {
			return err
		}
		if step == 0 {
			return fmt.Errorf("step of range should be a positive number: %s", expr)
		}
		if len(limits) == 1 {
			end = b.high
		}
	default:
		return fmt.Errorf("too many slashes: %s", expr)
	}
	switch {
	case start < b.low:
		return fmt.Errorf("beginning of range (%d) below minimum (%d): %s", start, b.low, expr)
	case end > b.high:
		return fmt.Errorf("end of range (%d) above maximum (%d): %s", end, b.high, expr)
	case start > end:
		return fmt.Errorf("beginning of range (%d) beyond end of range (%d): %s", start, end, expr)
	}
	return nil
}

func scheduleNumber(s string, b bound) (uint, error) {
	for i, name := range b.names {
		if strings.EqualFold(s, name) {
			return b.low + uint(i), nil
		}
	}
	return parseNumber(s)
}

func parseNumber(s string) (uint, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("failed to parse int from %s: %s", s, err)
	}
	if n < 0 {
		return 0, fmt.Errorf("negative number (%d) not allowed: %s", n, s)
	}
	return uint(n), nil
}
