package main

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
)

// benchResult is the result of a run.
type benchResult struct {
	Version    string      `json:"version"`
	Processors int         `json:"processors"`
	Transport  string      `json:"transport"`
	Target     string      `json:"target"` // "" is a CA that was started for the run
	Log        string      `json:"log"`
	Steps      []benchStep `json:"steps"`
	// Growth is by how many bytes the server's memory grew for each certificate, between the first and the last of several steps
	// with as many callers; the first one is left out, because caches fill.
	Growth *float64 `json:"rss_growth_bytes_per_certificate,omitempty"`
}

// growth is the slope of memory over certificates, if there are at least four equal steps.
func growth(steps []benchStep) *float64 {
	if len(steps) < 4 {
		return nil
	}
	made := 0
	for i, s := range steps {
		if s.Callers != steps[0].Callers || s.RSS == 0 {
			return nil
		}
		if i > 1 {
			made += s.Certificates
		}
	}
	g := (steps[len(steps)-1].RSS - steps[1].RSS) * (1 << 20) / float64(made)
	return &g
}

func (r *benchRun) result() benchResult {
	out := benchResult{Version: readBuildInfo().Version, Processors: runtime.NumCPU(), Transport: "REST", Target: r.flags.target, Log: "the target's", Steps: r.steps, Growth: growth(r.steps)}
	if r.flags.native {
		out.Transport = "gRPC"
		if !r.flags.launched {
			out.Target = r.flags.grpc
		}
	}
	if r.flags.launched {
		if out.Log = "instant, on loopback"; r.flags.embedded {
			out.Log = "embedded"
		}
	}
	return out
}

// orDash prints n, or a dash where it was not measured.
func dashOr(n float64, decimals int) string {
	if n == 0 {
		return "–"
	}
	return strconv.FormatFloat(n, 'f', decimals, 64)
}

func (r benchResult) print(w io.Writer, st style) error {
	target := r.Target
	if target == "" {
		target = "a CA of this run"
	}
	fmt.Fprintf(w, "%s over %s, log: %s, %d processors (shared with this tool)\n\n", target, r.Transport, r.Log, r.Processors)
	g := &grid{head: []string{"callers", "certs/s", "p50 ms", "p99 ms", "refused", "failed", "server µs/cert", "floor µs", "ratio", "RSS MB"}}
	g.spare = []string{"floor µs", "RSS MB", "server µs/cert"}
	for _, s := range r.Steps {
		g.add(strconv.Itoa(s.Callers), dashOr(s.PerSecond, 0), dashOr(s.P50, 2), dashOr(s.P99, 2), strconv.Itoa(s.Refused), strconv.Itoa(s.Failed),
			dashOr(s.CPU, 0), dashOr(s.Floor, 0), dashOr(s.Ratio, 2), dashOr(s.RSS, 0))
	}
	if err := g.write(w, st); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%s\n", r.plot(st))
	for _, s := range r.Steps {
		if s.FirstError != "" {
			fmt.Fprintf(w, "first error with %d callers: %s\n", s.Callers, s.FirstError)
		}
	}
	if r.Growth != nil {
		fmt.Fprintf(w, "memory grew by %.1f bytes for each certificate\n", *r.Growth)
	}
	return flow(w, st, "floor: the cryptography that one certificate cannot do without, timed beside each step; ratio: server µs over floor")
}

// plot draws certificates per second as bars of text.
func (r benchResult) plot(st style) string {
	width := 50.0
	if st.width > 0 {
		width = max(10, min(width, float64(st.width-20)))
	}
	most := 1.0
	for _, s := range r.Steps {
		most = max(most, s.PerSecond)
	}
	var b strings.Builder
	b.WriteString(st.dim(" callers  certificates per second") + "\n")
	for _, s := range r.Steps {
		eighths := int(s.PerSecond / most * width * 8)
		bar := strings.Repeat("█", eighths/8)
		if part := eighths % 8; part > 0 {
			bar += string([]rune("▏▎▍▌▋▊▉")[part-1])
		}
		fmt.Fprintf(&b, " %7d  %s %.0f\n", s.Callers, bar, s.PerSecond)
	}
	return b.String()
}

// svg draws throughput as bars and latencies as lines, over the steps.
func (r benchResult) svg() []byte {
	const left, top, height, column = 60, 30, 220, 90
	width := left*2 + column*max(1, len(r.Steps))
	most, slowest := 1.0, 1.0
	for _, s := range r.Steps {
		most, slowest = max(most, s.PerSecond), max(slowest, s.P99)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, top+height+50)
	b.WriteString("<style>text{fill:#333} .bar{fill:#9ecae1} .p50{stroke:#31a354;fill:none;stroke-width:2} .p99{stroke:#de2d26;fill:none;stroke-width:2}" +
		" @media (prefers-color-scheme: dark){text{fill:#ddd}}</style>\n")
	fmt.Fprintf(&b, `<text x="%d" y="18">certificates per second (bars); latency p50 (green) and p99 (red), full height %.1f ms; %s</text>`+"\n", 10, slowest, r.Transport)
	var p50, p99 strings.Builder
	for i, s := range r.Steps {
		x := left + i*column
		h := s.PerSecond / most * height
		fmt.Fprintf(&b, `<rect class="bar" x="%d" y="%.1f" width="%d" height="%.1f"/>`+"\n", x+10, top+height-h, column-20, h)
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="middle">%.0f</text>`+"\n", x+column/2, top+height-h-4, s.PerSecond)
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%d callers</text>`+"\n", x+column/2, top+height+18, s.Callers)
		if s.Ratio > 0 {
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%.2f × floor</text>`+"\n", x+column/2, top+height+36, s.Ratio)
		}
		fmt.Fprintf(&p50, "%d,%.1f ", x+column/2, top+height-s.P50/slowest*height)
		fmt.Fprintf(&p99, "%d,%.1f ", x+column/2, top+height-s.P99/slowest*height)
	}
	fmt.Fprintf(&b, `<polyline class="p50" points="%s"/><polyline class="p99" points="%s"/>`+"\n</svg>\n", p50.String(), p99.String())
	return b.Bytes()
}
