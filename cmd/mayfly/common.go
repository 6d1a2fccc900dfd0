package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"
	"k8s.io/klog/v2"
)

// common holds the flags that every subcommand has.
type common struct {
	logLevel, logFormat string
}

// logger writes to w as the flags say.
func (o *common) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	switch o.logLevel {
	case "debug", "info", "warn", "error":
		if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
			return nil, usage("--log-level %q: %v", o.logLevel, err)
		}
	default:
		return nil, usage("--log-level %q: write debug, info, warn or error", o.logLevel)
	}
	opts := &slog.HandlerOptions{Level: level}
	inSeconds := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration { // slog writes nanoseconds into JSON, without saying so
			return slog.Float64(a.Key+"_seconds", a.Value.Duration().Seconds())
		}
		return a
	}}
	var h slog.Handler
	switch {
	case o.logFormat == "text" || o.logFormat == "auto" && isTerminal(w):
		h = slog.NewTextHandler(w, opts)
	case o.logFormat == "json" || o.logFormat == "auto":
		if s, ok := w.(*screen); ok && !isTerminal(w) {
			w = s.to // nobody looks at it, and each request writes there
		}
		h = slog.NewJSONHandler(w, inSeconds)
	default:
		return nil, usage("--log-format %q: write text, json or auto", o.logFormat)
	}
	klog.SetSlogLogger(slog.New(warnings{h})) // the storage of the embedded log writes there
	return slog.New(h), nil
}

// warnings lets warnings and errors pass.
type warnings struct{ slog.Handler }

// Enabled implements [slog.Handler].
func (h warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && h.Handler.Enabled(ctx, l)
}

func isTerminal(w any) bool {
	f, ok := behind(w).(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) //nolint:gosec // a file descriptor fits
}

// style writes terminal attributes, or nothing where the stream is no terminal or NO_COLOR is set (https://no-color.org).
// It knows how wide the terminal is; 0 is no terminal.
type style struct {
	on    bool
	width int
}

func styleFor(w io.Writer) style {
	return style{on: isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb", width: columnsOf(w)}
}

func (s style) wrap(code, text string) string {
	if !s.on {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) bold(t string) string   { return s.wrap("1", t) }
func (s style) dim(t string) string    { return s.wrap("2", t) }
func (s style) green(t string) string  { return s.wrap("32", t) }
func (s style) yellow(t string) string { return s.wrap("33", t) }
func (s style) red(t string) string    { return s.wrap("31", t) }

// table aligns rows of name and value.
type table struct{ rows [][2]string }

func (t *table) add(name, value string) { t.rows = append(t.rows, [2]string{cell(name), cell(value)}) }

// write prints the rows, names padded to one width, indented by two spaces. On a terminal a value that is too long goes on under its
// beginning, or under its name where there is no room beside it.
func (t *table) write(w io.Writer, st style) error {
	width := 0
	for _, r := range t.rows {
		width = max(width, len(r[0]))
	}
	for _, r := range t.rows {
		lead, value := "  "+st.dim(r[0])+strings.Repeat(" ", width-len(r[0])+2), []string{r[1]}
		indent := width + 4
		switch room := st.width - indent; {
		case st.width == 0 || visible(r[1]) <= room:
		case room < wideCell:
			lead, indent = "  "+st.dim(r[0])+"\n    ", 4
			value = folded(r[1], st.width-indent)
		default:
			value = folded(r[1], room)
		}
		line := lead + strings.Join(value, "\n"+strings.Repeat(" ", indent)) + "\n"
		if _, err := io.WriteString(w, line); err != nil {
			return err
		}
	}
	return nil
}

// lengthOfTime is a flag with a duration whose default reads "1h", where pflag's own writes "1h0m0s".
type lengthOfTime struct{ at *time.Duration }

var _ pflag.Value = lengthOfTime{}

// lasting gives at its default and returns the flag that sets it.
func lasting(at *time.Duration, fallback time.Duration) lengthOfTime {
	*at = fallback
	return lengthOfTime{at}
}

// String implements [pflag.Value].
func (l lengthOfTime) String() string {
	if l.at == nil || *l.at == 0 {
		return "" // no default
	}
	text := l.at.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// Set implements [pflag.Value].
func (l lengthOfTime) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		return errors.New("write a duration such as 30s, 10m or 1h")
	}
	*l.at = d
	return nil
}

// Type implements [pflag.Value].
func (lengthOfTime) Type() string { return "duration" }
