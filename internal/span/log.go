package span

import (
	"context"
	"log/slog"
)

// Handler returns a handler of log records that adds the attribute trace_id to records whose context has a recorded
// span.
func Handler(h slog.Handler) slog.Handler { return handler{h} }

type handler struct{ slog.Handler }

// Handle implements [slog.Handler].
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if s := In(ctx); s.Recorded() {
		r = r.Clone()
		r.AddAttrs(slog.String(exemplarKey, s.TraceID()))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (h handler) WithAttrs(a []slog.Attr) slog.Handler { return handler{h.Handler.WithAttrs(a)} }

// WithGroup implements [slog.Handler].
func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }
