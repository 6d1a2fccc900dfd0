package status_test

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/status"
)

// metricsPage is a page /metrics. Of the certificates, fast were issued within a second.
func metricsPage(started int, requests map[string]int, fast int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds %d\n", started)
	b.WriteString("# TYPE mayfly_slo_requests_total counter\n")
	for fault, n := range requests {
		fmt.Fprintf(&b, "mayfly_slo_requests_total{fault=%q} %d\n", fault, n)
	}
	b.WriteString("# TYPE mayfly_slo_issued_seconds histogram\n")
	for bound, n := range map[string]int{"0.5": fast / 2, "1": fast, "+Inf": requests["none"]} {
		fmt.Fprintf(&b, "mayfly_slo_issued_seconds_bucket{le=%q} %d\n", bound, n)
	}
	fmt.Fprintf(&b, "mayfly_slo_issued_seconds_count %d\nmayfly_slo_issued_seconds_sum 1\n", requests["none"])
	return b.String()
}

// counts asks a server with this page.
func counts(t *testing.T, page string, code int) (*status.Counts, error) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" {
			w.WriteHeader(code)
			_, _ = w.Write([]byte(page))
		}
	}))
	defer s.Close()
	return status.AskCounts(t.Context(), status.Options{URL: s.URL, Client: s.Client()})
}

func TestLevel(t *testing.T) {
	t.Parallel()
	objectives := status.Objectives{Success: 0.999, Within: time.Second, Fast: 0.99}
	for name, c := range map[string]struct {
		pages           []string
		good, caller    int
		bad             map[string]int
		success, budget float64 // NaN: none
		fast            float64
		met             bool
	}{
		"no request": {
			[]string{metricsPage(1, map[string]int{"none": 0, "caller": 7}, 0)},
			0, 7, nil, math.NaN(), math.NaN(), math.NaN(), true,
		},
		"all good": {
			[]string{metricsPage(1, map[string]int{"none": 1000, "caller": 500}, 1000)},
			1000, 500, nil, 1, 1, 1, true,
		},
		"half of the budget": {
			[]string{metricsPage(1, map[string]int{"none": 1999, "log": 1}, 1990)},
			1999, 0,
			map[string]int{"log": 1},
			0.9995, 0.5, 0.995, true,
		},
		"two servers": {
			[]string{
				metricsPage(1, map[string]int{"none": 1000}, 1000),
				metricsPage(2, map[string]int{"none": 900, "us": 60, "log": 40}, 900),
			},
			1900, 0,
			map[string]int{"log": 40, "us": 60},
			0.95, -49, 0.95, false,
		},
		"slow": {
			[]string{metricsPage(1, map[string]int{"none": 1000}, 989)},
			1000, 0, nil, 1, 1, 0.989, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var all []*status.Counts
			for _, page := range c.pages {
				one, err := counts(t, page, http.StatusOK)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, one)
			}
			l, err := status.LevelOf(all, objectives)
			if err != nil {
				t.Fatal(err)
			}
			bad := map[string]int{}
			for party, n := range l.Bad {
				if n > 0 {
					bad[party] = n
				}
			}
			same := func(got *float64, want float64) bool {
				if got == nil || math.IsNaN(want) {
					return got == nil && math.IsNaN(want)
				}
				return math.Abs(*got-want) < 1e-9
			}
			if l.Good != c.good || l.Caller != c.caller || !maps.Equal(bad, c.bad) || l.Met != c.met ||
				!same(l.Success.Share, c.success) || !same(l.Success.Budget, c.budget) || !same(l.Fast.Share, c.fast) {
				t.Errorf("%+v, success %v, budget %v, fast %v", l, l.Success.Share, l.Success.Budget, l.Fast.Share)
			}
			if l.Since.Unix() != 1 || l.Until.Before(l.Since) {
				t.Errorf("from %s to %s", l.Since, l.Until)
			}
		})
	}
	one, err := counts(t, metricsPage(1, map[string]int{"none": 1}, 1), http.StatusOK)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := status.LevelOf([]*status.Counts{one}, status.Objectives{Within: 2 * time.Second}); err == nil ||
		!strings.Contains(err.Error(), "write one of 500ms, 1s") {
		t.Error(err)
	}
}

// Counts over a time are differences, unless the process was started again.
func TestCountsSince(t *testing.T) {
	t.Parallel()
	page := func(started, good, bad int) *status.Counts {
		c, err := counts(t, metricsPage(started, map[string]int{"none": good, "log": bad}, good), http.StatusOK)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before := page(1, 100, 10)
	if c := page(1, 150, 12).Since(before); c.Requests["none"] != 50 || c.Requests["log"] != 2 || c.Issued[1] != 50 ||
		!c.Started.Equal(before.At) {
		t.Errorf("%+v", c)
	}
	if c := page(2, 5, 1).Since(before); c.Requests["none"] != 5 || c.Requests["log"] != 1 || c.Issued[1] != 5 {
		t.Errorf("after a restart: %+v", c)
	}
}

// A page that is not one of this mayfly is an error that says what to do.
func TestCountsRefused(t *testing.T) {
	t.Parallel()
	good := metricsPage(1, map[string]int{"none": 1}, 1)
	for name, c := range map[string]struct {
		page string
		code int
	}{
		"another program": {"# TYPE x counter\nx 1\n", http.StatusOK},
		"not metrics":     {"<html>", http.StatusOK},
		"a failure":       {good, http.StatusInternalServerError},
		"empty":           {"", http.StatusOK},
	} {
		if _, err := counts(t, c.page, c.code); err == nil ||
			!strings.Contains(err.Error(), "write the address of listen.admin") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzCounts(f *testing.F) {
	f.Add(metricsPage(1, map[string]int{"none": 3, "log": 1, "caller": 2}, 3))
	f.Add("mayfly_slo_requests_total{fault=\"none\"} 9223372036854775807\n" +
		"mayfly_slo_requests_total{fault=\"log\"} 9223372036854774784\n" +
		"# TYPE mayfly_slo_issued_seconds histogram\nmayfly_slo_issued_seconds_bucket{le=\"1\"} 1\n")
	f.Add("mayfly_slo_requests_total{fault=\"none\"} NaN\nmayfly_slo_issued_seconds_bucket{le=\"1\"} -5\n")
	f.Fuzz(func(t *testing.T, page string) {
		c, err := counts(t, page, http.StatusOK)
		if err != nil {
			return
		}
		l, err := status.LevelOf([]*status.Counts{c}, status.Objectives{Success: 0.9, Within: time.Second, Fast: 0.9})
		if err == nil && l.Success.Share != nil && !(*l.Success.Share >= 0 && *l.Success.Share <= 1) {
			t.Errorf("%+v", l)
		}
	})
}
