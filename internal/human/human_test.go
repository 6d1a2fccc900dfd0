package human_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/human"
)

func TestDuration(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0 seconds", 1: "1 nanosecond", 1500: "1 microsecond", 250 * time.Millisecond: "250 milliseconds",
		time.Second: "1 second", 1900 * time.Millisecond: "1 second", time.Minute: "1 minute",
		90 * time.Second: "1 minute 30 seconds",
		10 * time.Minute: "10 minutes", time.Hour: "1 hour", 61 * time.Minute: "1 hour 1 minute",
		time.Hour + time.Second: "1 hour",
		87600 * time.Hour:       "3650 days", 480*time.Hour - 13*time.Second: "19 days 23 hours",
		24 * time.Hour:    "1 day",
		49 * time.Hour:    "2 days 1 hour",
		-90 * time.Second: "-1 minute 30 seconds", math.MinInt64: "-106751 days 23 hours",
		math.MaxInt64: "106751 days 23 hours",
	} {
		if got := human.Duration(d); got != want {
			t.Errorf("%d: %q, want %q", d, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	t.Parallel()
	var out []string
	for n, thing := range []string{"entry", "key", "entry", "finding", "day"} {
		out = append(out, human.Count(n, thing))
	}
	if got := strings.Join(out, ", "); got != "0 entries, 1 key, 2 entries, 3 findings, 4 days" {
		t.Error(got)
	}
}
