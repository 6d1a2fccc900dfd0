package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/tsa"
)

// The names of the rows about the log of signatures and about the timestamp authority.
const (
	signatureLog = "log of signatures"
	stampCheck   = "timestamps"
)

// signatures checks the log of signatures, if there is one.
func (e *exam) signatures(context.Context) []Row {
	c := e.cfg.Rekor
	if c == nil {
		return nil
	}
	rows := slices.Concat(e.files[signatureLog], e.place(signatureLog, c.Dir), e.lock(signatureLog, c.Dir+"/lock"))
	return otherwise(rows, signatureLog, "its directory can be written")
}

// timestamps checks the timestamp authority, if there is one, and asks its time servers. The trial of its key is among
// the checks of the files.
func (e *exam) timestamps(ctx context.Context) []Row {
	c := e.cfg.TSA
	if c == nil {
		return nil
	}
	rows := slices.Clone(e.files[stampCheck])
	if slices.ContainsFunc(rows, func(r Row) bool { return r.State == Problem }) {
		return rows
	}
	text := "the key signs timestamps"
	if chain, err := signer.ReadChain(c.ChainFile()); err == nil {
		text += "; " + chainEnd(chain)
	}
	rows = otherwise(rows, stampCheck, text)
	if c.Clock == nil {
		return append(rows, warning(stampCheck, "this machine's clock is not compared with time servers",
			"write tsa.clock.servers, with three servers or more"))
	}
	all := tsa.Compare(ctx, *c.Clock)
	agreeing := 0
	for _, one := range all {
		switch {
		case one.Err != nil:
			rows = append(rows, warning("time server "+one.Server, one.Err.Error(),
				"check its name, and that UDP to its port is allowed"))
		case !one.Agrees:
			rows = append(rows, warning("time server "+one.Server, "the server's clock differs from this machine's by "+
				one.Offset.Round(time.Millisecond).String(),
				"correct the clock that is wrong, or raise tsa.clock.max_offset"))
		default:
			agreeing++
		}
	}
	agreement := fmt.Sprintf("%d of %d time servers agree with this machine's clock", agreeing, len(all))
	if 2*agreeing <= len(all) {
		return append(rows, problem(stampCheck, agreement+", so that no timestamps are made",
			"see the rows of the time servers"))
	}
	return append(rows, ok(stampCheck, agreement))
}
