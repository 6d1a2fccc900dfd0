package shadow

import (
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/terminal"
)

// Report sums up the records of one or several stores.
type Report struct {
	From time.Time `json:"from"` // of the first record; the zero time if there is none
	To   time.Time `json:"to"`   // of the last record
	// Compared is how many requests were compared: equal, explained or different.
	Compared  int64 `json:"compared"`
	Equal     int64 `json:"equal"`
	Explained int64 `json:"explained"`
	Different int64 `json:"different"`
	// NotCompared counts the other requests by outcome.
	NotCompared map[Outcome]int64 `json:"not_compared"`
	APIs        map[API]int64     `json:"apis"`
	// Configs are digests of the configurations that the upstream was compared with.
	Configs []string `json:"configs"`
	Starts  int64    `json:"starts"`  // of processes
	Damaged int64    `json:"damaged"` // lines that were cut off when a process was killed
	Rows    []Row    `json:"differences"`
}

// Row is one kind of difference.
type Row struct {
	Kind     Kind      `json:"kind"`
	Field    string    `json:"field,omitempty"`
	Count    int64     `json:"count"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Rows     []string  `json:"explained_by,omitempty"` // rows of docs/compatibility.md
	Examples []Example `json:"examples"`
}

// ReadReport reads the stores in directories, also while they are written.
func ReadReport(dirs ...string) (*Report, error) {
	sum := newTotals()
	for _, dir := range dirs {
		one, err := readStore(dir)
		if err != nil {
			return nil, err
		}
		sum.merge(one)
	}
	return sum.report(), nil
}

func (t *totals) report() *Report {
	r := &Report{
		Equal: t.Outcomes[Equal], Explained: t.Outcomes[Explained], Different: t.Outcomes[Different],
		NotCompared: map[Outcome]int64{}, APIs: t.APIs, Configs: append([]string{}, t.Configs...), Starts: t.Starts,
		Damaged: t.Damaged, Rows: []Row{},
	}
	if t.First != 0 {
		r.From, r.To = time.UnixMilli(t.First).UTC(), time.UnixMilli(t.Last).UTC()
	}
	r.Compared = r.Equal + r.Explained + r.Different
	for _, o := range Outcomes() {
		if n := t.Outcomes[o]; n > 0 && o != Equal && o != Explained && o != Different {
			r.NotCompared[o] = n
		}
	}
	for _, one := range t.Rows {
		r.Rows = append(r.Rows, Row{
			Kind: one.Kind, Field: one.Field, Count: one.Count, Rows: one.Rows, Examples: one.Examples,
			First: time.UnixMilli(one.First).UTC(), Last: time.UnixMilli(one.Last).UTC(),
		})
	}
	slices.SortStableFunc(r.Rows, func(a, b Row) int { // what nothing explains comes first
		return cmp.Or(cmp.Compare(min(len(a.Rows), 1), min(len(b.Rows), 1)), cmp.Compare(b.Count, a.Count),
			cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Field, b.Field))
	})
	return r
}

// Agrees reports whether something was compared, and nothing differs that docs/compatibility.md does not explain.
func (r *Report) Agrees() bool { return r.Compared > 0 && r.Different == 0 }

// percent is a share of the compared requests.
func (r *Report) percent(n int64) string {
	if r.Compared == 0 {
		return "–"
	}
	return fmt.Sprintf("%.3f %%", 100*float64(n)/float64(r.Compared))
}

// summary are the counts with their names.
func (r *Report) summary() [][2]string {
	out := [][2]string{{"period", "no record"}}
	if !r.From.IsZero() {
		out[0][1] = r.From.Format(time.RFC3339) + " to " + r.To.Format(time.RFC3339)
	}
	out = append(out, [2]string{"compared", fmt.Sprint(r.Compared)},
		[2]string{"equal", fmt.Sprintf("%d (%s)", r.Equal, r.percent(r.Equal))},
		[2]string{"explained", fmt.Sprintf("%d (%s)", r.Explained, r.percent(r.Explained))},
		[2]string{"different", fmt.Sprintf("%d (%s)", r.Different, r.percent(r.Different))})
	for _, o := range Outcomes() {
		if n := r.NotCompared[o]; n > 0 {
			out = append(out, [2]string{notCompared[o], fmt.Sprint(n)})
		}
	}
	if len(r.Configs) > 1 {
		out = append(out, [2]string{"configurations", fmt.Sprintf("%d; the counts mix them", len(r.Configs))})
	}
	if r.Damaged > 0 {
		out = append(out, [2]string{"damaged records", fmt.Sprint(r.Damaged)})
	}
	return out
}

// notCompared names the outcomes of requests that were not compared.
var notCompared = map[Outcome]string{
	Failed:   "no answer of the upstream",
	Dropped:  "dropped: the queue was full",
	Late:     "token expired meanwhile",
	Panicked: "panic of a comparison",
	Served:   "served by the candidate",
}

func (r Row) what() string { return strings.TrimSpace(string(r.Kind) + " " + r.Field) }

func (r Row) explanation() string {
	if len(r.Rows) == 0 {
		return "nothing"
	}
	return strings.Join(r.Rows, "; or: ")
}

func (r Row) example() string {
	if len(r.Examples) == 0 {
		return ""
	}
	e := r.Examples[0]
	return fmt.Sprintf("%s, %s: upstream %s, own %s", e.Time.Format(time.RFC3339), e.API, e.Upstream, e.Own)
}

// Write writes the report for a terminal.
func (r *Report) Write(w io.Writer) error {
	st := terminal.StyleFor(w)
	var t terminal.Table
	for _, line := range r.summary() {
		t.Add(line[0], line[1])
	}
	if err := t.Write(w, st); err != nil || len(r.Rows) == 0 {
		return err
	}
	g := terminal.Grid{Head: []string{"difference", "count", "explained by", "example"}}
	for _, row := range r.Rows {
		g.Add(row.what(), fmt.Sprint(row.Count), row.explanation(), row.example())
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return g.Write(w, st)
}

//go:embed report.html
var page string

// WriteHTML writes the report as one page without scripts and without references to other servers.
func (r *Report) WriteHTML(w io.Writer) error {
	t, err := template.New("report").Parse(page)
	if err != nil {
		return err
	}
	type row struct {
		What, Explanation, First, Last string
		Count                          int64
		Explained                      bool
		Examples                       []Example
	}
	view := struct {
		Agrees  bool
		Summary [][2]string
		Rows    []row
	}{Agrees: r.Agrees(), Summary: r.summary()}
	for _, one := range r.Rows {
		view.Rows = append(view.Rows, row{
			one.what(), one.explanation(), one.First.Format(time.RFC3339), one.Last.Format(time.RFC3339), one.Count,
			len(one.Rows) > 0, one.Examples,
		})
	}
	return t.Execute(w, view)
}
