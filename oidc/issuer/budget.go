package issuer

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// TokenUse is one use of a token whose number of uses is limited.
type TokenUse struct {
	// Key identifies the token. It is the SHA-256 of a constant and the token's signing input (RFC 7515 §5.1), which
	// is everything but the signature. The signature is left out because whoever has an ECDSA signature (r, s) can make
	// another valid one, (r, n-s), and with it another text of the same token. No other change is possible: the
	// signature covers the signing input, and [token.Parse] accepts one encoding of each part. The issuer and the
	// audience are in the signing input, so that the count does not begin again when the key of an entry changes.
	Key [sha256.Size]byte
	// Most is the highest number of certificates that the token may get.
	Most int
	// IssuedAt and Expires are the claims iat and exp.
	IssuedAt, Expires time.Time
	// IssueUncounted says that the token is accepted even if it is not known how often it was used.
	IssueUncounted bool
}

// The values of [EntryConfig].BudgetUnavailable.
const (
	budgetRefuse = "refuse"
	budgetIssue  = "issue"
)

// useDomain separates the keys of tokens from other hashes.
const useDomain = "mayfly use of a token\x00"

// Use returns the use of a verified token, or nil if the number of uses is not limited. A token whose uses are counted
// needs the claim iat, which tells whether the token was issued before uses were counted.
func (e *Entry) Use(t *token.Token) (*TokenUse, error) {
	most := e.Config.certificatesPerToken()
	if most == 0 {
		return nil, nil
	}
	iat, ok, err := t.Claims.Time("iat")
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fault.New(fault.ClaimMissing, errors.New("certificates-per-token needs it"), "claim", "iat")
	}
	exp, _, err := t.Claims.Time("exp")
	if err != nil {
		return nil, err
	}
	u := &TokenUse{
		Most: most, IssuedAt: iat, Expires: exp, IssueUncounted: e.Config.BudgetUnavailable == budgetIssue,
	}
	h := sha256.New()
	_, _ = h.Write([]byte(useDomain + t.SigningInput())) // a hash returns no error
	h.Sum(u.Key[:0])
	return u, nil
}

// certificatesPerToken returns the highest number of certificates for one token; 0: there is none.
func (c EntryConfig) certificatesPerToken() int {
	if c.SingleUse {
		return 1
	}
	return c.CertificatesPerToken
}

// CountsUses reports whether the entry limits how often a token may be used.
func (c EntryConfig) CountsUses() bool { return c.certificatesPerToken() > 0 }

// CountsUses reports whether an entry limits how often a token may be used.
func (c Config) CountsUses() bool {
	for _, all := range []map[string]EntryConfig{c.Issuers, c.MetaIssuers} {
		for _, e := range all {
			if e.CountsUses() {
				return true
			}
		}
	}
	return false
}

// mostPerToken bounds certificates-per-token.
const mostPerToken = 1_000_000

// checkBudget checks the settings that limit how often an entry and its tokens may be used.
func (c EntryConfig) checkBudget() error {
	var errs []error
	add := func(problem, fix, key string) { errs = append(errs, fault.BadSetting(problem, fix, key)) }
	if c.CertificatesPerToken < 0 || c.CertificatesPerToken > mostPerToken {
		add("is not a number of certificates",
			fmt.Sprintf("write a number from 1 to %d, or remove it for no limit", mostPerToken),
			"certificates-per-token")
	}
	if c.SingleUse && c.CertificatesPerToken != 0 {
		add("certificates-per-token is also set, and single-use: true means certificates-per-token: 1",
			"remove one of them", "single-use")
	}
	switch {
	case c.BudgetUnavailable == "":
	case c.BudgetUnavailable != budgetRefuse && c.BudgetUnavailable != budgetIssue:
		add(fmt.Sprintf("%q is not a decision", c.BudgetUnavailable), "write refuse or issue", "budget-unavailable")
	case c.certificatesPerToken() == 0:
		add("has no effect, because the number of certificates for one token is not limited",
			"write certificates-per-token or single-use, or remove it", "budget-unavailable")
	}
	return errors.Join(append(errs, fault.Under(c.RateLimit.Check(), "rate-limit"),
		fault.Under(c.IdentityRateLimit.Check(), "identity-rate-limit"))...)
}
