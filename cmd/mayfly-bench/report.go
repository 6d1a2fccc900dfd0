package main

import (
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/internal/version"
)

// benchResult is the result of a run.
type benchResult struct {
	Version    string      `json:"version"`
	Processors int         `json:"processors"`
	Transport  string      `json:"transport"`
	Target     string      `json:"target"` // "" is a CA that this tool started
	Log        string      `json:"log"`
	Capacity   float64     `json:"capacity_per_second,omitempty"` // 100 % in the plan
	Steps      []benchStep `json:"steps"`
	// Growth is the growth of the server's memory in bytes per certificate, over several steps with the same load. The
	// first step is excluded, because caches fill during it.
	Growth      *float64 `json:"rss_growth_bytes_per_certificate,omitempty"`
	Exhausted   bool     `json:"max_requests_reached"`
	Interrupted bool     `json:"interrupted"`
}

// growth returns the growth of memory per certificate, or nil if there are fewer than four steps with the same load.
func growth(steps []benchStep) *float64 {
	if len(steps) < 4 {
		return nil
	}
	made := 0
	for i, s := range steps {
		if s.benchLoad != steps[0].benchLoad || s.Processors != steps[0].Processors || s.RSS == 0 {
			return nil
		}
		if i > 1 {
			made += s.Certificates
		}
	}
	g := (steps[len(steps)-1].RSS - steps[1].RSS) * (1 << 20) / float64(made)
	return &g
}

// result returns a result without steps.
func (f *benchFlags) result() benchResult {
	out := benchResult{
		Version: version.Read().Version, Processors: runtime.NumCPU(), Transport: "REST",
		Target: f.target, Log: "the target's",
	}
	if f.native {
		out.Transport = "gRPC"
		if !f.launched {
			out.Target = f.grpc
		}
	}
	switch {
	case f.embedded:
		out.Log = "embedded"
	case f.launched && f.logLatency > 0:
		out.Log = f.logLatency.String() + ", on loopback"
	case f.launched:
		out.Log = "instant, on loopback"
	}
	return out
}

// add adds the steps of a run.
func (r *benchResult) add(run *benchRun) {
	r.Steps = append(r.Steps, run.steps...)
	r.Capacity, r.Growth = run.capacity, growth(r.Steps)
}

// dashOr formats n, or returns a dash if n is 0, which means not measured.
func dashOr(n float64, decimals int) string {
	if n == 0 {
		return "–"
	}
	return strconv.FormatFloat(n, 'f', decimals, 64)
}

func (r benchResult) print(w io.Writer, st terminal.Style) error {
	target := r.Target
	if target == "" {
		target = "a CA that this tool started"
	}
	shared := " (shared with this tool)"
	if len(r.Steps) > 0 && r.Steps[0].Placement != nil {
		shared = "" // the notes have this for each number of processors
	}
	fmt.Fprintf(w, "%s over %s, log: %s, %s here%s\n\n", target, r.Transport, r.Log,
		human.Count(r.Processors, "processor"), shared)
	if err := r.table().Write(w, st); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%s\n", r.plot(st))
	for _, note := range r.notes() {
		if err := terminal.Flow(w, st, note); err != nil {
			return err
		}
	}
	return nil
}

// benchColumn is a column of the table. An optional column is omitted if it has no values.
type benchColumn struct {
	head     string
	optional bool
	cell     func(benchStep) string
}

func benchColumns() []benchColumn {
	number := func(head string, decimals int, of func(benchStep) float64) benchColumn {
		return benchColumn{head: head, cell: func(s benchStep) string { return dashOr(of(s), decimals) }}
	}
	optional := func(c benchColumn) benchColumn { c.optional = true; return c }
	return []benchColumn{
		optional(number("processors", 0, func(s benchStep) float64 { return float64(s.Processors) })),
		{head: "load", cell: benchStep.load},
		number("certs/s", 0, func(s benchStep) float64 { return s.PerSecond }),
		number("p50 ms", 2, func(s benchStep) float64 { return s.P50 }),
		number("p99 ms", 2, func(s benchStep) float64 { return s.P99 }),
		optional(number("added ms", 2, func(s benchStep) float64 { return s.Added })),
		{
			head: "refused/s",
			cell: func(s benchStep) string { return strconv.FormatFloat(s.RefusedPerSecond, 'f', 0, 64) },
		},
		optional(number("refusal p50", 2, func(s benchStep) float64 { return s.RefusedP50 })),
		optional(number("refusal p99", 2, func(s benchStep) float64 { return s.RefusedP99 })),
		optional(number("not sent", 0, func(s benchStep) float64 { return float64(s.NotSent) })),
		{head: "failed", cell: func(s benchStep) string { return strconv.Itoa(s.Failed) }},
		number("server µs/cert", 0, func(s benchStep) float64 { return s.CPU }),
		optional(number("certs/CPU s", 0, func(s benchStep) float64 {
			if s.Processors == 0 {
				return 0 // redundant: the reciprocal of the previous column
			}
			return s.PerCPUSecond
		})),
		number("floor µs", 0, func(s benchStep) float64 { return s.Floor }),
		number("ratio", 2, func(s benchStep) float64 { return s.Ratio }),
		number("RSS MB", 0, func(s benchStep) float64 { return s.RSS }),
	}
}

func (s benchStep) load() string { return s.benchLoad.String() }

func (r benchResult) table() *terminal.Grid {
	columns := slices.DeleteFunc(benchColumns(), func(c benchColumn) bool {
		return c.optional && !slices.ContainsFunc(r.Steps, func(s benchStep) bool { return c.cell(s) != "–" })
	})
	g := &terminal.Grid{Spare: []string{
		"floor µs", "not sent", "refusal p50", "RSS MB", "added ms", "certs/CPU s",
		"server µs/cert", "refusal p99",
	}}
	for _, c := range columns {
		g.Head = append(g.Head, c.head)
	}
	for _, s := range r.Steps {
		var row []string
		for _, c := range columns {
			row = append(row, c.cell(s))
		}
		g.Add(row...)
	}
	return g
}

// name returns the name of a step in the chart and the notes.
func (s benchStep) name() string {
	if s.Processors > 0 {
		return s.load() + ", " + human.Count(s.Processors, "processor")
	}
	return s.load()
}

// notes returns the lines below the table.
func (r benchResult) notes() []string {
	var out []string
	explained := map[string]string{}
	for _, s := range r.Steps {
		if s.Recovery != nil {
			out = append(out, fmt.Sprintf("recovery from %s: %s", s.name(), s.Recovery))
		}
		if s.LateP99 > max(1, s.P99/10) {
			out = append(out,
				fmt.Sprintf("at %s this tool sent requests late, by %.1f ms (p99), which is part of the latencies",
					s.name(), s.LateP99))
		}
		if s.FirstError != "" {
			out = append(out, fmt.Sprintf("first error with %s: %s", s.name(), s.FirstError))
		}
		if s.NotSent > 0 {
			explained["not sent"] = fmt.Sprintf("not sent: arrivals while %d requests were in flight, or "+
				"after the end of the step", maxInFlight)
		}
		if s.Added > 0 {
			explained["added"] = "added: mean latency minus the mean time that the log measured for its responses"
		}
		if s.Placement != nil {
			out = append(out, s.Placement.note(s.Processors))
		}
	}
	if r.Exhausted {
		out = append(out, "--max-requests was reached: the last step is shorter than the others, or steps are missing")
	}
	if r.Interrupted {
		out = append(out, "interrupted: the last step does not count the requests in flight")
	}
	if r.Growth != nil {
		out = append(out, fmt.Sprintf("memory grew by %.1f bytes per certificate", *r.Growth))
	}
	for _, key := range slices.Sorted(maps.Keys(explained)) {
		out = append(out, explained[key])
	}
	out = append(slices.Compact(out),
		"floor: the time of the cryptography that each certificate requires, measured before and after each step; "+
			"ratio: server µs / floor")
	return out
}

// note explains the numbers of a server that had only n processors.
func (p benchPlacement) note(n int) string {
	who := human.Count(n, "processor")
	switch {
	case !p.Pinned:
		return who + ": only GOMAXPROCS of the server was set; certs/s is affected by this tool, µs/cert is not"
	case p.Shared:
		return who +
			": this machine has too few processors, so this tool ran on those of the server; certs/s is lower for " +
			"that reason, µs/cert is not affected"
	}
	return who + ": used only by the server; this tool ran on the others"
}

// plot returns a bar chart of certificates per second as text.
func (r benchResult) plot(st terminal.Style) string {
	most, widest := 1.0, 0
	for _, s := range r.Steps {
		most, widest = max(most, s.PerSecond), max(widest, len(s.name()))
	}
	width := 50.0
	if st.Width > 0 {
		width = max(10, min(width, float64(st.Width-widest-12)))
	}
	var b strings.Builder
	b.WriteString(st.Dim(fmt.Sprintf(" %*s  certificates per second", widest, "load")) + "\n")
	for _, s := range r.Steps {
		eighths := int(s.PerSecond / most * width * 8)
		bar := strings.Repeat("█", eighths/8)
		if part := eighths % 8; part > 0 {
			bar += string([]rune("▏▎▍▌▋▊▉")[part-1])
		}
		fmt.Fprintf(&b, " %*s  %s %.0f\n", widest, s.name(), bar, s.PerSecond)
	}
	return b.String()
}
