package server

import (
	"context"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/server/uses"
)

// UseCounter counts how often tokens were used for certificates: in this process, or for several.
type UseCounter interface {
	// Spend counts a use, or returns why the token gets no certificate. Its error is a [fault.Error] or wraps one.
	Spend(ctx context.Context, u uses.Use) (uses.Result, error)
}

// spend returns a function that counts the use of a token, for [ca.Request]; nil if uses of the token are not counted.
// The use is counted when nothing but the journal, the signatures and the logs can fail any more, and before the
// first signature. It is not given back when one of these fails, because the precertificate may be signed by then.
func (s *Server) spend(core *Core, d *oidc.Decision, r *record) func(context.Context) error {
	if d.Use == nil {
		return nil
	}
	return func(ctx context.Context) error {
		if core.Uses == nil {
			return fault.New(fault.BudgetUnavailable, nil)
		}
		result, err := core.Uses.Spend(ctx, uses.Use{
			Key: d.Use.Key, Entry: d.Entry, Most: d.Use.Most, IssuedAt: d.Use.IssuedAt, Expires: d.Use.Expires,
			IssueUncounted: d.Use.IssueUncounted,
		})
		s.metrics.uses.WithLabelValues(d.Entry, string(result)).Inc()
		r.add("token_use", string(result))
		r.spent = err == nil && result == uses.Counted
		return err
	}
}

// spentKey is the metadata key, in the error of a request that failed after its use of the token was counted.
const spentKey = "token_use"

// tellSpent adds to an error that the request counts as a use of its token.
func (r *record) tellSpent(f *fault.Error) *fault.Error {
	if f == nil || !r.spent {
		return f
	}
	own := *f
	own.Meta = map[string]string{spentKey: string(uses.Counted)}
	for k, v := range f.Meta {
		own.Meta[k] = v
	}
	return &own
}
