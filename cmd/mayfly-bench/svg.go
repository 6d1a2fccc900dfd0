package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/human"
)

// svg returns a chart of the steps: throughput as bars, latencies as lines, and captions with the other results.
func (r benchResult) svg() []byte {
	const left, top, height, column, line = 60, 30, 220, 120, 16
	width := left*2 + column*max(1, len(r.Steps))
	most, slowest, lines := 1.0, 1.0, 0
	for _, s := range r.Steps {
		most, slowest, lines = max(most, s.PerSecond), max(slowest, s.P99), max(lines, len(s.captions()))
	}
	var b bytes.Buffer
	fmt.Fprintf(&b,
		`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n",
		width, top+height+line*lines+10)
	b.WriteString("<style>text{fill:#333} .bar{fill:#9ecae1} .p50{stroke:#31a354;fill:none;stroke-width:2} " +
		".p99{stroke:#de2d26;fill:none;stroke-width:2}" +
		" @media (prefers-color-scheme: dark){text{fill:#ddd}}</style>\n")
	fmt.Fprintf(&b,
		`<text x="%d" y="18">certificates per second (bars); `+
			`latency p50 (green) and p99 (red), full height %.1f ms; %s</text>`+"\n", 10, slowest, r.Transport)
	var p50, p99 strings.Builder
	for i, s := range r.Steps {
		x := left + i*column
		h := s.PerSecond / most * height
		fmt.Fprintf(&b, `<rect class="bar" x="%d" y="%.1f" width="%d" height="%.1f"/>`+"\n", x+10,
			top+height-h, column-20, h)
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="middle">%.0f</text>`+"\n", x+column/2,
			top+height-h-4, s.PerSecond)
		for n, text := range s.captions() {
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", x+column/2,
				top+height+line*(n+1), text)
		}
		fmt.Fprintf(&p50, "%d,%.1f ", x+column/2, top+height-s.P50/slowest*height)
		fmt.Fprintf(&p99, "%d,%.1f ", x+column/2, top+height-s.P99/slowest*height)
	}
	fmt.Fprintf(&b, `<polyline class="p50" points="%s"/><polyline class="p99" points="%s"/>`+"\n</svg>\n",
		p50.String(), p99.String())
	return b.Bytes()
}

// captions returns the lines below a step of the chart.
func (s benchStep) captions() []string {
	out := []string{s.load()}
	say := func(n float64, format string) {
		if n > 0 {
			out = append(out, fmt.Sprintf(format, n))
		}
	}
	if s.Processors > 0 {
		out = append(out, human.Count(s.Processors, "processor"))
		say(s.PerCPUSecond, "%.0f per CPU second")
	}
	say(s.Ratio, "%.2f × floor")
	say(s.Added, "%.1f ms without the log")
	say(s.RefusedPerSecond, "%.0f refused/s")
	say(s.RefusedP99, "in %.1f ms (p99)")
	if s.NotSent > 0 {
		out = append(out, strconv.Itoa(s.NotSent)+" not sent")
	}
	switch rec := s.Recovery; {
	case rec == nil:
	case rec.Back:
		out = append(out, fmt.Sprintf("recovered after %.1f s", rec.Seconds))
	default:
		out = append(out, "not recovered after "+recoveryBound.String())
	}
	return out
}
