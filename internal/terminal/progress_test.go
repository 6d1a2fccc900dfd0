package terminal

import (
	"bytes"
	"testing"
	"time"
)

func TestProgress(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		every time.Duration
		run   func(*Progress)
		want  string
	}{
		"nothing shown":   {0, func(p *Progress) { p.Clear() }, ""},
		"a line, cleared": {0, func(p *Progress) { p.Showf("%d of %d", 1, 2); p.Clear() }, "\r\x1b[K1 of 2\r\x1b[K"},
		"cleared once":    {0, func(p *Progress) { p.Showf("x"); p.Clear(); p.Clear() }, "\r\x1b[Kx\r\x1b[K"},
		"overwritten":     {0, func(p *Progress) { p.Showf("x"); p.Showf("y") }, "\r\x1b[Kx\r\x1b[Ky"},
		"too soon":        {time.Hour, func(p *Progress) { p.Showf("x"); p.Clear() }, ""},
		"control characters": {
			0, func(p *Progress) { p.Showf("%s", "a\x1b[2J\nb") },
			"\r\x1b[Ka" + Printable("\x1b[2J\n") + "b",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			c.run(&Progress{to: &out, every: c.every, last: time.Now()})
			if out.String() != c.want {
				t.Errorf("%q, want %q", out.String(), c.want)
			}
		})
	}
}

// Output that is not a terminal has no progress line.
func TestProgressOfAFile(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	for _, w := range []*Screen{NewScreen(&out)} {
		p := NewProgress(w)
		if p != nil {
			t.Error("a progress line without a terminal")
		}
		p.Showf("x")
		p.Clear()
	}
	if out.Len() > 0 {
		t.Errorf("wrote %q", out.String())
	}
}
