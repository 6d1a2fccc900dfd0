package fault_test

import (
	"testing"

	"github.com/mayfly-ca/mayfly/fault"
)

// Each reason has its party. A new reason needs a row here: decide who has to act, and whether its row in the table
// says so.
func TestParties(t *testing.T) {
	t.Parallel()
	want := map[fault.Party][]fault.Reason{
		fault.PartyCaller: {
			fault.TokenMissing, fault.TokenMalformed, fault.TokenTooLarge, fault.IssuerNotTrusted,
			fault.AudienceMismatch, fault.TokenExpired, fault.TokenNotYetValid, fault.TokenTooLongLived,
			fault.AlgorithmNotAllowed, fault.KeyIDUnknown, fault.SignatureInvalid, fault.ClaimMissing,
			fault.ClaimInvalid, fault.EmailUnverified, fault.IdentityNotAllowed, fault.PolicyDenied,
			fault.TokenReplayed,
			fault.KeyMissing, fault.KeyMalformed, fault.KeyWeak, fault.KeyAlgorithmNotAllowed, fault.CSRMalformed,
			fault.ProofInvalid, fault.EntryMalformed, fault.EntryAlgorithmNotAllowed, fault.EntrySignatureInvalid,
			fault.EntryNotAdmitted, fault.EntryExists, fault.PathUnknown, fault.MethodNotAllowed,
			fault.RequestMalformed,
			fault.RequestTooLarge, fault.RateLimited, fault.CallerCanceled, fault.CallerDeadline,
		},
		fault.PartyProvider: {fault.ProviderUnavailable, fault.ProviderKeysUnusable},
		fault.PartyLog:      {fault.LogUnavailable, fault.EntryNotLogged},
		fault.PartySigner:   {fault.SignerUnavailable},
		fault.PartyStore:    {fault.BudgetUnavailable},
		fault.PartyJournal:  {fault.JournalUnavailable},
		fault.PartyUs:       {fault.NotReady, fault.InternalError},
	}
	party := map[fault.Reason]fault.Party{}
	for p, reasons := range want {
		for _, r := range reasons {
			party[r] = p
		}
	}
	known := map[fault.Party]bool{}
	for _, p := range fault.Parties() {
		known[p] = true
	}
	for r := range fault.Reasons() {
		switch p := r.Party(); {
		case party[r] == "":
			t.Errorf("%s: add it to this test", r)
		case p != party[r] || fault.New(r, nil).Party != p || !known[p]:
			t.Errorf("%s: %s, want %s", r, p, party[r])
		}
	}
	if p := fault.Reason("NO_SUCH_REASON").Party(); p != fault.PartyUs {
		t.Errorf("an unknown reason: %s", p)
	}
	if e := fault.New(fault.RateLimited, nil).By(fault.PartyUs); e.Party != fault.PartyUs {
		t.Errorf("replaced: %s", e.Party)
	}
}
