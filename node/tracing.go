package node

import (
	"log/slog"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/span"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/tracing"
)

// openTracer starts the export of traces, if the configuration has a collector. Lines of the log about a request that
// is traced then have its trace_id.
func (n *Node) openTracer() (err error) {
	n.tracer, err = tracing.Open(n.started.Tracing, tracing.Options{Version: version.Read().Version, Logger: n.log})
	if err != nil {
		return n.started.Locate(fault.Under(err, "tracing"))
	}
	if n.tracer != nil {
		n.log = slog.New(span.Handler(n.log.Handler()))
	}
	return nil
}
