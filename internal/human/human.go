// Package human writes numbers for people: durations in days and hours, counts with the right form of their noun.
//
// Text for programs (JSON, metrics, configuration) MUST NOT use it.
package human

import (
	"fmt"
	"strings"
	"time"
)

var units = []struct {
	length time.Duration
	name   string
}{
	{24 * time.Hour, "day"},
	{time.Hour, "hour"},
	{time.Minute, "minute"},
	{time.Second, "second"},
	{time.Millisecond, "millisecond"},
	{time.Microsecond, "microsecond"},
	{time.Nanosecond, "nanosecond"},
}

// Duration writes d in its largest unit and the next smaller one: "19 days 23 hours", "90 days", "1 minute 30 seconds".
// The rest is cut off. Durations below a minute have one unit only. A negative duration has a minus sign.
func Duration(d time.Duration) string {
	if d < 0 {
		if d == -d { // math.MinInt64, which has no positive counterpart
			d++
		}
		return "-" + Duration(-d)
	}
	for i, u := range units {
		if d < u.length {
			continue
		}
		out := []string{Count(int(d/u.length), u.name)}
		if u.length > time.Second && d%u.length >= units[i+1].length {
			out = append(out, Count(int(d%u.length/units[i+1].length), units[i+1].name))
		}
		return strings.Join(out, " ")
	}
	return "0 seconds"
}

// Count writes a number and its noun: "1 finding", "2 findings", "0 entries". thing is the singular.
func Count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	if stem, ok := strings.CutSuffix(thing, "y"); ok && !strings.HasSuffix(stem, "a") && !strings.HasSuffix(stem, "e") {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
