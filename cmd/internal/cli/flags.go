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
		"text, json, or auto: text in a terminal, else json")
	CompleteWords(root, "log-level", "debug", "info", "warn", "error")
	CompleteWords(root, "log-format", "auto", "text", "json")
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
		if a.Value.Kind() == slog.KindDuration { // slog writes nanoseconds into JSON, without a unit
			return slog.Float64(a.Key+"_seconds", a.Value.Duration().Seconds())
		}
		return a
	}}
	var h slog.Handler
	switch {
	case o.logFormat == "text" || o.logFormat == "auto" && terminal.IsTerminal(w):
		h = slog.NewTextHandler(w, opts)
	case o.logFormat == "json" || o.logFormat == "auto":
		if s, ok := w.(*terminal.Screen); ok && !terminal.IsTerminal(w) {
			w = s.To // the source is not used, and each request writes there
		}
		h = slog.NewJSONHandler(w, inSeconds)
	default:
		return nil, Usage("--log-format %q: write text, json or auto", o.logFormat)
	}
	klog.SetSlogLogger(slog.New(warnings{h})) // the storage of the embedded log uses it
	return slog.New(h), nil
}

// warnings passes warnings and errors, and drops the rest.
type warnings struct{ slog.Handler }

// Enabled implements [slog.Handler].
func (h warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && h.Handler.Enabled(ctx, l)
}

// lengthOfTime is a duration flag whose default is shown as "1h", where pflag shows "1h0m0s".
type lengthOfTime struct{ at *time.Duration }

var _ pflag.Value = lengthOfTime{}

// Lasting sets the variable to its default and returns the flag that changes it.
func Lasting(at *time.Duration, fallback time.Duration) pflag.Value {
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
