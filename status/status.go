// Package status asks a running CA for its state: the pages of its admin listener go in, one [Report] comes out, for
// people and for machines.
//
// [Ask] sends three requests, each bounded in time and size, and changes nothing at the CA. What a page does not have
// is absent from the report, never invented: an older CA, or one without a canary, has a shorter report.
package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/mayfly-ca/mayfly/canary"
	"github.com/mayfly-ca/mayfly/internal/httpclient"
	"github.com/mayfly-ca/mayfly/server"
)

// Report is the state of a running CA, and what "mayfly status --json" prints.
type Report struct {
	URL   string `json:"url"` // of the admin listener
	Ready bool   `json:"ready"`
	// Causes are why Ready is false: the dependencies that do not work, sorted.
	Causes []string `json:"causes"`
	// Dependencies are those of /readyz, by their names.
	Dependencies map[string]server.Dependency `json:"dependencies"`
	Config       *server.InForce              `json:"config,omitempty"` // nil until there is one
	Build        *Build                       `json:"build,omitempty"`
	Started      *time.Time                   `json:"started,omitempty"` // UTC, seconds
	Uptime       float64                      `json:"uptime_seconds"`
	// Expiries are what ends, the soonest first.
	Expiries []Expiry `json:"expiries"`
	Logs     []Log    `json:"logs"`
	// Journal is absent without a journal.
	Journal *Journal `json:"journal,omitempty"`
	// Canary is its last run; absent if it is off, or has not run yet.
	Canary       *canary.Run  `json:"canary,omitempty"`
	Certificates Certificates `json:"certificates"`
	Limits       Limits       `json:"limits"`
}

// Build is what the binary was built from.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
}

// Expiry is the end of something that certificates or verifiers need.
type Expiry struct {
	Kind string    `json:"kind"` // chain, parent, log, tuf or tls
	Name string    `json:"name"` // may be empty
	At   time.Time `json:"at"`   // UTC
}

// Log is a transparency log.
type Log struct {
	Name string `json:"name"`
	// Usable is false if the log is set aside because it fails, or is in quarantine.
	Usable      bool `json:"usable"`
	Quarantined bool `json:"quarantined"`
	Accepted    int  `json:"accepted"` // submissions since the start
	Failed      int  `json:"failed"`   // likewise, without those that were canceled
}

// Journal is the journal of decisions.
type Journal struct {
	Records  int `json:"records"`  // durable since the start
	Queued   int `json:"queued"`   // that wait to be written
	Failures int `json:"failures"` // to write, since the start
	Dropped  int `json:"dropped"`  // denials that were only counted
}

// Certificates are counts since the start.
type Certificates struct {
	Issued  int            `json:"issued"`
	Refused map[string]int `json:"refused"` // requests without a certificate, by reason (docs/errors.md)
}

// Limits are how much of the limits is in use.
type Limits struct {
	Connections map[string]Used `json:"connections"` // by listener
	Descriptors *Used           `json:"file_descriptors,omitempty"`
	Running     int             `json:"requests_running"`
	Waiting     int             `json:"requests_waiting"` // for a processor
}

// Used is a number with its limit.
type Used struct {
	Now   int `json:"now"`
	Limit int `json:"limit"`
}

// Options for [Ask].
type Options struct {
	URL    string // of the admin listener, without a path
	Client *http.Client
	Now    func() time.Time // nil: time.Now
}

// Timeout bounds each request of [Ask]; a client is made with it.
const Timeout = 5 * time.Second

// The limits of the pages, in bytes.
const (
	maxReady   = 1 << 20
	maxMetrics = 16 << 20
	maxCanary  = 64 << 10
)

// Ask asks the CA. Its error means that the CA cannot be reached, or does not answer as mayfly does.
func Ask(ctx context.Context, o Options) (*Report, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	r := &Report{
		URL: o.URL, Causes: []string{}, Expiries: []Expiry{}, Logs: []Log{},
		Certificates: Certificates{Refused: map[string]int{}}, Limits: Limits{Connections: map[string]Used{}},
	}
	var ready server.Report
	code, body, err := get(ctx, o, page{"/readyz", maxReady})
	if err != nil {
		return nil, err
	}
	if code != http.StatusOK && code != http.StatusServiceUnavailable || json.Unmarshal(body, &ready) != nil ||
		ready.Dependencies == nil {
		return nil, fmt.Errorf("%s/readyz answers with status %d and is not the readiness page of mayfly; "+
			"write the address of listen.admin", o.URL, code)
	}
	r.Ready, r.Dependencies, r.Config = ready.Ready, ready.Dependencies, ready.Config
	for _, name := range slices.Sorted(maps.Keys(ready.Dependencies)) {
		if d := ready.Dependencies[name]; !d.OK && !d.Advisory {
			r.Causes = append(r.Causes, name+": "+d.Cause)
		}
	}
	code, body, err = get(ctx, o, page{"/metrics", maxMetrics})
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%s/metrics answers with status %d", o.URL, code)
	}
	if err != nil {
		return nil, err
	}
	if err := r.metrics(body, o.Now()); err != nil {
		return nil, fmt.Errorf("%s/metrics: %w", o.URL, err)
	}
	code, body, err = get(ctx, o, page{"/canary", maxCanary})
	if err != nil {
		return nil, err
	}
	if code == http.StatusOK {
		r.Canary = &canary.Run{}
		if err := json.Unmarshal(body, r.Canary); err != nil {
			return nil, fmt.Errorf("%s/canary: %w", o.URL, err)
		}
	}
	return r, nil
}

// page is a page of the admin listener, with the limit of its size.
type page struct {
	path  string
	limit int64
}

func get(ctx context.Context, o Options, p page) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.URL+p.path, http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	return do(o.Client, req, p)
}

func do(c *http.Client, req *http.Request, p page) (int, []byte, error) {
	resp, err := c.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // the URL is in the text below
		}
		return 0, nil, fmt.Errorf("the CA at %s cannot be reached: %w", req.URL.Redacted(), err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	body, err := httpclient.ReadBody(resp, p.limit)
	if err != nil {
		return 0, nil, fmt.Errorf("%s: %w", req.URL.Redacted(), err)
	}
	return resp.StatusCode, body, nil
}

// families are the metrics of a page.
type families map[string]*dto.MetricFamily

// each calls f for each series of a metric, with its labels and its value.
func (m families) each(name string, f func(labels map[string]string, value float64)) {
	for _, one := range m[name].GetMetric() {
		labels := map[string]string{}
		for _, l := range one.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		f(labels, one.GetCounter().GetValue()+one.GetGauge().GetValue()+one.GetUntyped().GetValue())
	}
}

// sum adds the series of a metric.
func (m families) sum(name string) (out int) {
	m.each(name, func(_ map[string]string, v float64) { out += count(v) })
	return out
}

// count is a value as a count: not negative, and so small that a page of them can be added up.
func count(v float64) int {
	const most = 1 << 40
	if !(v > 0) || v > most {
		return 0
	}
	return int(v)
}

// moment is a value in seconds since 1970 as a time.
func moment(v float64) time.Time {
	if !(v > 0) || v > 1e11 {
		return time.Time{}
	}
	return time.Unix(int64(v), 0).UTC()
}

// metrics adds what the page /metrics says.
func (r *Report) metrics(data []byte, now time.Time) error {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	parsed, err := parser.TextToMetricFamilies(bytes.NewReader(data))
	if err != nil {
		return err
	}
	m := families(parsed)
	m.each("mayfly_build_info", func(l map[string]string, _ float64) {
		r.Build = &Build{Version: l["version"], Commit: l["commit"], Go: l["go_version"]}
	})
	m.each("process_start_time_seconds", func(_ map[string]string, v float64) {
		if at := moment(v); !at.IsZero() {
			r.Started, r.Uptime = &at, math.Max(0, now.Sub(at).Truncate(time.Second).Seconds())
		}
	})
	m.each("mayfly_expiry_timestamp_seconds", func(l map[string]string, v float64) {
		r.Expiries = append(r.Expiries, Expiry{Kind: l["kind"], Name: l["name"], At: moment(v)})
	})
	slices.SortFunc(r.Expiries, func(a, b Expiry) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		return strings.Compare(a.Kind+a.Name, b.Kind+b.Name)
	})
	r.logs(m)
	if _, ok := m["mayfly_journal_queue_records"]; ok {
		r.Journal = &Journal{
			Records: m.sum("mayfly_journal_records_total"), Queued: m.sum("mayfly_journal_queue_records"),
			Failures: m.sum("mayfly_journal_failures_total"), Dropped: m.sum("mayfly_journal_dropped_total"),
		}
	}
	m.each("mayfly_ca_certificates_total", func(l map[string]string, v float64) {
		if l["result"] == "success" {
			r.Certificates.Issued += count(v)
		}
	})
	m.each("mayfly_server_requests_total", func(l map[string]string, v float64) {
		if l["method"] == "CreateSigningCertificate" && l["reason"] != "" {
			r.Certificates.Refused[l["reason"]] += count(v)
		}
	})
	for name, set := range map[string]func(u *Used, v int){
		"mayfly_server_connections":       func(u *Used, v int) { u.Now = v },
		"mayfly_server_connections_limit": func(u *Used, v int) { u.Limit = v },
	} {
		m.each(name, func(l map[string]string, v float64) {
			u := r.Limits.Connections[l["listener"]]
			set(&u, count(v))
			r.Limits.Connections[l["listener"]] = u
		})
	}
	if most := m.sum("process_max_fds"); most > 0 {
		r.Limits.Descriptors = &Used{Now: m.sum("process_open_fds"), Limit: most}
	}
	r.Limits.Running, r.Limits.Waiting = m.sum("mayfly_server_requests_running"),
		m.sum("mayfly_server_requests_waiting")
	return nil
}

// logs adds the logs.
func (r *Report) logs(m families) {
	all := map[string]*Log{}
	named := func(l map[string]string) *Log {
		name := l["log"]
		if all[name] == nil {
			all[name] = &Log{Name: name}
		}
		return all[name]
	}
	m.each("mayfly_ctlog_usable_ratio", func(l map[string]string, v float64) { named(l).Usable = v == 1 })
	m.each("mayfly_ctlog_benched_ratio", func(l map[string]string, v float64) { named(l).Quarantined = v == 1 })
	m.each("mayfly_ctlog_attempts_total", func(l map[string]string, v float64) {
		switch l["result"] {
		case "accepted":
			named(l).Accepted += count(v)
		case "abandoned":
		default:
			named(l).Failed += count(v)
		}
	})
	for _, name := range slices.Sorted(maps.Keys(all)) {
		r.Logs = append(r.Logs, *all[name])
	}
}

// RunCanary makes the canary of the CA run now. A nil run without an error means that the canary is off.
func RunCanary(ctx context.Context, o Options) (*canary.Run, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.URL+"/canary", http.NoBody)
	if err != nil {
		return nil, err
	}
	code, body, err := do(o.Client, req, page{"/canary", maxCanary})
	switch {
	case err != nil:
		return nil, err
	case code == http.StatusNotFound:
		return nil, nil //nolint:nilnil // it is off
	case code != http.StatusOK:
		return nil, fmt.Errorf("%s/canary answers with status %d: %.200s", o.URL, code, body)
	}
	out := &canary.Run{}
	if err := json.Unmarshal(body, out); err != nil {
		return nil, fmt.Errorf("%s/canary: %w", o.URL, err)
	}
	return out, nil
}
