package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

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
	var h slog.Handler
	switch {
	case o.logFormat == "text" || o.logFormat == "auto" && isTerminal(w):
		h = slog.NewTextHandler(w, opts)
	case o.logFormat == "json" || o.logFormat == "auto":
		h = slog.NewJSONHandler(w, opts)
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
	f, ok := w.(*os.File)
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

func (t *table) add(name, value string) { t.rows = append(t.rows, [2]string{name, value}) }

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

// shellWord quotes s for a POSIX shell where that is needed.
func shellWord(s string) string {
	plain := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+=,", r))
	}) < 0
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// amount is a number of things in words: "1 finding", "2 findings".
func amount(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
