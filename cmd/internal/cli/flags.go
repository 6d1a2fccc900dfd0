package cli

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
)

// Common holds the flags that every subcommand has.
type Common struct {
	LogLevel, logFormat string
}

// Add defines the flags.
func (o *Common) Add(root *cobra.Command) {
	root.PersistentFlags().StringVar(&o.LogLevel, "log-level", "info", "debug, info, warn or error")
	root.PersistentFlags().StringVar(&o.logFormat, "log-format", "auto",
		"short, text, json, or auto: short in a terminal, else json")
	CompleteWords(root, "log-level", "debug", "info", "warn", "error")
	CompleteWords(root, "log-format", "auto", "short", "text", "json")
}

// NewLogger returns a logger that writes to w as the flags say.
func (o *Common) NewLogger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	switch o.LogLevel {
	case "debug", "info", "warn", "error":
		if err := level.UnmarshalText([]byte(o.LogLevel)); err != nil {
			return nil, Usage("--log-level %q: %v", o.LogLevel, err)
		}
	default:
		return nil, Usage("--log-level %q: write debug, info, warn or error", o.LogLevel)
	}
	opts := &slog.HandlerOptions{Level: level}
	inSeconds := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration { // slog writes durations into JSON in nanoseconds, without a unit
			return slog.Float64(a.Key+"_seconds", a.Value.Duration().Seconds())
		}
		return a
	}}
	var h slog.Handler
	switch {
	case o.logFormat == "short" || o.logFormat == "auto" && terminal.IsTerminal(w):
		h = newShortHandler(w, level)
	case o.logFormat == "text":
		h = slog.NewTextHandler(w, opts)
	case o.logFormat == "json" || o.logFormat == "auto":
		if s, ok := w.(*terminal.Screen); ok && !terminal.IsTerminal(w) {
			w = s.To // JSON needs no escaping for a terminal, and each request writes a line
		}
		h = slog.NewJSONHandler(w, inSeconds)
	default:
		return nil, Usage("--log-format %q: write short, text, json or auto", o.logFormat)
	}
	klog.SetSlogLogger(slog.New(warnings{h})) // Tessera, the storage of the embedded log, logs with klog
	return slog.New(h), nil
}

// warnings is a handler that discards records below the level of warnings.
type warnings struct{ slog.Handler }

// Enabled implements [slog.Handler].
func (h warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && h.Handler.Enabled(ctx, l)
}

// durationValue is the value of a flag. Its default is printed as "1h"; that of pflag's own type would be printed as
// "1h0m0s".
type durationValue struct{ at *time.Duration }

var _ pflag.Value = durationValue{}

// DurationFlag sets *at to the default and returns the flag value that changes it.
func DurationFlag(at *time.Duration, fallback time.Duration) pflag.Value {
	*at = fallback
	return durationValue{at}
}

// String implements [pflag.Value].
func (l durationValue) String() string {
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
func (l durationValue) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		return errors.New("write a duration such as 30s, 10m or 1h")
	}
	*l.at = d
	return nil
}

// Type implements [pflag.Value].
func (durationValue) Type() string { return "duration" }
