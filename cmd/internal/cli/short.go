package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/internal/terminal"
)

// shortHandler writes records for people: one line each, and a line of its own form for a request. Text from outside is
// escaped, so that it can neither control a terminal nor begin another line.
type shortHandler struct {
	to    *lockedWriter
	level slog.Leveler
	style terminal.Style
	attrs []slog.Attr // of the logger, with the names of their groups
	group string      // prefix of the names of further attributes
}

// lockedWriter writes one line at a time.
type lockedWriter struct {
	sync.Mutex
	io.Writer
}

func newShortHandler(w io.Writer, level slog.Leveler) *shortHandler {
	return &shortHandler{to: &lockedWriter{Writer: w}, level: level, style: terminal.StyleFor(w)}
}

// Enabled implements [slog.Handler].
func (h *shortHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

// WithAttrs implements [slog.Handler].
func (h *shortHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := *h
	out.attrs = append(append([]slog.Attr(nil), h.attrs...), flatten(h.group, attrs)...)
	return &out
}

// WithGroup implements [slog.Handler].
func (h *shortHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	out := *h
	out.group += name + "."
	return &out
}

// flatten returns attributes without groups: the name of a group becomes a part of the names.
func flatten(prefix string, attrs []slog.Attr) (out []slog.Attr) {
	for _, a := range attrs {
		a.Value = a.Value.Resolve()
		switch {
		case a.Equal(slog.Attr{}):
		case a.Value.Kind() == slog.KindGroup && a.Key == "":
			out = append(out, flatten(prefix, a.Value.Group())...)
		case a.Value.Kind() == slog.KindGroup:
			out = append(out, flatten(prefix+a.Key+".", a.Value.Group())...)
		default:
			out = append(out, slog.Attr{Key: prefix + a.Key, Value: a.Value})
		}
	}
	return out
}

// Handle implements [slog.Handler].
func (h *shortHandler) Handle(_ context.Context, r slog.Record) error {
	attrs := append([]slog.Attr(nil), h.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, flatten(h.group, []slog.Attr{a})...)
		return true
	})
	var b strings.Builder
	if !r.Time.IsZero() {
		b.WriteString(h.style.Dim(r.Time.Format("15:04:05.000")) + " ")
	}
	if r.Message == requestMessage {
		h.request(&b, r, attrs)
	} else {
		h.plain(&b, r, attrs)
	}
	b.WriteByte('\n')
	h.to.Lock()
	defer h.to.Unlock()
	_, err := io.WriteString(h.to, b.String())
	return err
}

// plain writes a record that is not about a request: its level unless it is INFO, its message, and its attributes.
func (h *shortHandler) plain(b *strings.Builder, r slog.Record, attrs []slog.Attr) {
	if r.Level != slog.LevelInfo {
		b.WriteString(h.paint(r.Level)(r.Level.String()) + " ")
	}
	b.WriteString(terminal.Printable(r.Message))
	for _, a := range attrs {
		text := valueText(a.Value)
		if text == "" || strings.ContainsAny(text, " \"=") {
			text = `"` + strings.ReplaceAll(text, `"`, `\"`) + `"`
		}
		b.WriteString(" " + h.style.Dim(terminal.Printable(a.Key)+"=") + text)
	}
}

func (h *shortHandler) paint(l slog.Level) func(string) string {
	switch {
	case l >= slog.LevelError:
		return h.style.Red
	case l >= slog.LevelWarn:
		return h.style.Yellow
	case l < slog.LevelInfo:
		return h.style.Dim
	}
	return func(s string) string { return s }
}

// The record of a request (server.finish), and its attributes that the short form shows.
const (
	requestMessage = "request"
	unknown        = "-"
)

// request writes the result, the method, the issuer entry, the name in the certificate, the time and the request id. A
// failure also has its cause.
func (h *shortHandler) request(b *strings.Builder, r slog.Record, attrs []slog.Attr) {
	text := map[string]string{}
	for _, a := range attrs {
		text[a.Key] = valueText(a.Value)
	}
	get := func(key string) string {
		if text[key] == "" {
			return unknown
		}
		return text[key]
	}
	result, paint := get("code"), h.style.Green
	if text["reason"] != "" {
		if result, paint = text["reason"], h.paint(r.Level); r.Level == slog.LevelInfo {
			paint = h.style.Yellow
		}
	}
	fmt.Fprintf(b, "%s %s %s %s %s %s", paint(result), get("method"), get("entry"),
		h.style.Bold(get("san")), get("took"),
		h.style.Dim(get("request_id")))
	if text["cause"] != "" {
		b.WriteString(h.style.Dim(": ") + text["cause"])
	}
}

// valueText writes a value; a duration has three digits at most, and its unit.
func valueText(v slog.Value) string {
	switch v.Kind() {
	case slog.KindDuration:
		return shortDuration(v.Duration())
	case slog.KindTime:
		return v.Time().Format(time.RFC3339Nano)
	}
	return terminal.Printable(v.String())
}

func shortDuration(d time.Duration) string {
	for unit := 100 * time.Second; unit >= time.Microsecond; unit /= 10 {
		if d.Abs() >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}
