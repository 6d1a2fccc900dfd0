package tracing

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// queue is a span processor: it passes spans to the SDK's batch processor as long as there is room, and counts the
// results. It bounds the spans that wait together with those that are being sent, so that the SDK, which would not
// count them here, never drops one.
type queue struct {
	sdk.SpanProcessor // sends batches to an exporter

	queued   atomic.Int64
	spans    *prometheus.CounterVec
	waiting  prometheus.Collector
	exported prometheus.Counter
	dropped  prometheus.Counter
	failed   prometheus.Counter
	log      *slog.Logger
	logged   atomic.Int64 // when a failure was logged last, in Unix nanoseconds
}

// logEvery is the time between two lines of the log about a collector that does not accept spans.
const logEvery = time.Minute

func newQueue(to sdk.SpanExporter, secrets []string, log *slog.Logger) *queue {
	q := &queue{log: log, spans: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_tracing_spans_total",
		Help: "Spans of sampled requests, by result: exported; failed: in a batch that the collector did not accept, " +
			"or only in part; dropped: too many waited for the collector.",
	}, []string{"result"})}
	q.exported, q.failed, q.dropped = q.spans.WithLabelValues("exported"), q.spans.WithLabelValues("failed"),
		q.spans.WithLabelValues("dropped")
	q.waiting = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "mayfly_tracing_spans_waiting",
		Help: "Spans that have ended and that the collector has not accepted yet.",
	}, func() float64 { return float64(q.queued.Load()) })
	q.SpanProcessor = sdk.NewBatchSpanProcessor(&counted{to, secrets, q}, sdk.WithMaxQueueSize(maxQueued),
		sdk.WithMaxExportBatchSize(batch), sdk.WithBatchTimeout(batchEvery), sdk.WithExportTimeout(maxTimeout+retryFor))
	return q
}

// OnEnd implements [sdk.SpanProcessor]. It does not wait.
func (q *queue) OnEnd(s sdk.ReadOnlySpan) {
	if q.queued.Add(1) > maxQueued {
		q.queued.Add(-1)
		q.dropped.Inc()
		return
	}
	q.SpanProcessor.OnEnd(s)
}

// counted is an exporter that counts.
type counted struct {
	sdk.SpanExporter
	secrets []string // that must not be logged
	queue   *queue
}

// maxCause bounds the text of an error, which may be from the collector, in bytes.
const maxCause = 300

// cause returns the text of an error for the log. An answer that repeats the request would have its secrets.
func (c *counted) cause(err error) string {
	text := err.Error()
	for _, secret := range c.secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "(secret)")
		}
	}
	if len(text) > maxCause {
		text = strings.ToValidUTF8(text[:maxCause], "") + "…"
	}
	return text
}

// ExportSpans implements [sdk.SpanExporter]. It returns no error: the SDK would write it to standard error.
func (c *counted) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := c.SpanExporter.ExportSpans(ctx, spans)
	c.queue.queued.Add(-int64(len(spans)))
	if err == nil {
		c.queue.exported.Add(float64(len(spans)))
		return nil
	}
	c.queue.failed.Add(float64(len(spans)))
	now, last := time.Now().UnixNano(), c.queue.logged.Load()
	if (now < last || now-last >= int64(logEvery)) && c.queue.logged.CompareAndSwap(last, now) {
		c.queue.log.WarnContext(context.WithoutCancel(ctx), "traces are not exported", "cause", c.cause(err))
	}
	return nil
}
