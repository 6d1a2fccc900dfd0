package terminal

import (
	"fmt"
	"io"
	"time"
)

const (
	progressEvery = 200 * time.Millisecond
	clearLine     = "\r\x1b[K"
)

// Progress is one line on a terminal that is overwritten while a command works. A nil Progress shows nothing.
type Progress struct {
	to    io.Writer
	every time.Duration
	last  time.Time // when the line was written
	shown bool
}

// NewProgress returns a progress line on w, or nil if w is not a terminal. A command that ends at once shows none.
func NewProgress(w io.Writer) *Progress {
	if !IsTerminal(w) {
		return nil
	}
	if s, ok := w.(*Screen); ok {
		w = s.To // a screen lets no control character pass
	}
	return &Progress{to: w, every: progressEvery, last: time.Now()}
}

// Showf replaces the line, at most once in 200 ms. Control characters in the text are escaped.
func (p *Progress) Showf(format string, args ...any) {
	if p == nil || time.Since(p.last) < p.every {
		return
	}
	p.last, p.shown = time.Now(), true
	_, _ = io.WriteString(p.to, clearLine+Printable(fmt.Sprintf(format, args...))) // the command does not depend on it
}

// Clear removes the line. It is called before anything else is written to the terminal.
func (p *Progress) Clear() {
	if p == nil || !p.shown {
		return
	}
	p.shown = false
	_, _ = io.WriteString(p.to, clearLine) // as above
}
