package status

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/mayfly-ca/mayfly/fault"
)

// Counts are the requests for certificates that a CA has counted since its start.
type Counts struct {
	Started time.Time // of the process
	At      time.Time // of these counts
	// Requests are counts by the party whose fault it is that there is no certificate; "none" counts those that got
	// one.
	Requests map[string]int
	// Issued has, by the upper bound of a bucket in seconds, how many certificates took no longer.
	Issued map[float64]int
}

// nobody is the fault of requests that got their certificate.
const nobody = "none"

// AskCounts asks the CA at o.URL.
func AskCounts(ctx context.Context, o Options) (*Counts, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	code, body, err := get(ctx, o, page{"/metrics", maxMetrics})
	if err != nil {
		return nil, err
	}
	c := &Counts{At: o.Now()}
	if err := c.parse(body); code != http.StatusOK || err != nil || len(c.Requests) == 0 {
		return nil, fmt.Errorf("%s/metrics answers with status %d and has no mayfly_slo_requests_total; "+
			"write the address of listen.admin of a mayfly that is not older than this program", o.URL, code)
	}
	return c, nil
}

func (c *Counts) parse(data []byte) error {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	parsed, err := parser.TextToMetricFamilies(bytes.NewReader(data))
	if err != nil {
		return err
	}
	m := families(parsed)
	c.Requests, c.Issued = map[string]int{}, map[float64]int{}
	m.each("mayfly_slo_requests_total", func(l map[string]string, v float64) { c.Requests[l["fault"]] += count(v) })
	m.each("process_start_time_seconds", func(_ map[string]string, v float64) { c.Started = moment(v) })
	for _, one := range m["mayfly_slo_issued_seconds"].GetMetric() {
		for _, b := range one.GetHistogram().GetBucket() {
			c.Issued[b.GetUpperBound()] += count(float64(b.GetCumulativeCount()))
		}
	}
	return nil
}

// Since returns what has been counted since before. If the process was started in the meantime, that is all of c.
func (c *Counts) Since(before *Counts) *Counts {
	if !c.Started.Equal(before.Started) {
		return c
	}
	out := &Counts{
		Started: before.At, At: c.At,
		Requests: maps.Clone(c.Requests), Issued: maps.Clone(c.Issued),
	}
	for fault, n := range before.Requests {
		out.Requests[fault] = max(0, out.Requests[fault]-n)
	}
	for bound, n := range before.Issued {
		out.Issued[bound] = max(0, out.Issued[bound]-n)
	}
	return out
}

// Objectives are what a service level is compared with.
type Objectives struct {
	Success float64       // share of the requests that get a certificate, for example 0.999
	Within  time.Duration // an upper bound of a bucket of mayfly_slo_issued_seconds
	Fast    float64       // share of the requests that get a certificate within Within
}

// Level is the service level of a CA, and what "mayfly slo --json" prints. Requests that fail by the fault of their
// caller do not count, apart from Requests and Caller.
type Level struct {
	URLs     []string  `json:"urls"`  // of the admin listeners
	Since    time.Time `json:"since"` // UTC; of the process that has counted longest
	Until    time.Time `json:"until"` // UTC
	Requests int       `json:"requests"`
	// Good are the requests with a certificate. Caller are those that failed by the fault of their caller.
	Good   int `json:"good"`
	Caller int `json:"caller"`
	// Bad are all others, by whose fault it is.
	Bad     map[string]int `json:"bad"`
	Success Share          `json:"success"` // got a certificate
	Fast    Share          `json:"fast"`    // got one within Within
	Within  float64        `json:"within_seconds"`
	Met     bool           `json:"met"` // both objectives are met
}

// Share is a share of the requests with its objective.
type Share struct {
	// Share is from 0 to 1; nil if there was no request.
	Share     *float64 `json:"share"`
	Objective float64  `json:"objective"`
	// Budget is the share of the permitted failures that is left: 1 if there was no failure, negative if there were
	// more than permitted.
	Budget *float64 `json:"budget_left"`
	Met    bool     `json:"met"`
}

// share returns the share good/all.
func share(good, all int, objective float64) Share {
	s := Share{Objective: objective, Met: true}
	if all == 0 {
		return s
	}
	value := float64(good) / float64(all)
	budget := 1.0
	if bad := all - good; bad > 0 {
		budget = 1 - float64(bad)/((1-objective)*float64(all))
	}
	if math.IsInf(budget, 0) || math.IsNaN(budget) { // an objective of 1 permits no failure
		budget = -float64(all - good)
	}
	s.Share, s.Budget, s.Met = &value, &budget, value >= objective
	return s
}

// LevelOf returns the service level of the CAs with these counts together. Its error says which bounds Within may have.
func LevelOf(all []*Counts, o Objectives) (*Level, error) {
	l := &Level{Bad: map[string]int{}, Within: o.Within.Seconds()}
	fast := 0
	for _, c := range all {
		n, known := c.Issued[o.Within.Seconds()]
		if !known {
			return nil, fmt.Errorf("certificates within %s are not counted; write one of %s", o.Within, c.bounds())
		}
		fast += n
		if l.Since.IsZero() || c.Started.Before(l.Since) {
			l.Since = c.Started.UTC()
		}
		if c.At.After(l.Until) {
			l.Until = c.At.UTC()
		}
		for party, n := range c.Requests {
			l.Requests += n
			switch {
			case party == nobody:
				l.Good += n
			case party == string(fault.PartyCaller):
				l.Caller += n
			default:
				l.Bad[party] += n
			}
		}
	}
	eligible := l.Requests - l.Caller
	l.Success, l.Fast = share(l.Good, eligible, o.Success), share(min(fast, l.Good), eligible, o.Fast)
	l.Met = l.Success.Met && l.Fast.Met
	return l, nil
}

// bounds lists the bounds of the buckets.
func (c *Counts) bounds() string {
	var out []string
	for _, bound := range slices.Sorted(maps.Keys(c.Issued)) {
		if !math.IsInf(bound, 0) {
			out = append(out, time.Duration(bound*float64(time.Second)).String())
		}
	}
	return strings.Join(out, ", ")
}
