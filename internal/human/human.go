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

// Duration writes d with its largest unit and, if there is a remainder, the next one: "19 days 23 hours", "90 days", "1
// minute 30 seconds". A remainder below the second unit is cut off, and so is a fraction of a second from one second
// on. A negative duration has a minus sign.
func Duration(d time.Duration) string {
	if d < 0 {
		if d == -d { // the smallest int64 has no positive counterpart
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

// Count is a number of things: "1 finding", "2 findings", "0 entries". thing is the singular.
func Count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	if stem, ok := strings.CutSuffix(thing, "y"); ok && !strings.HasSuffix(stem, "a") && !strings.HasSuffix(stem, "e") {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
