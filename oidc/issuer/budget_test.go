package issuer

import (
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/oidc/token"
)

func budgetToken(tb testing.TB) *token.Token {
	tb.Helper()
	t, err := token.Parse("eyJhbGciOiJFUzI1NiJ9.eyJleHAiOjE4MDAwMDA2MDAsImlhdCI6MTgwMDAwMDAwMH0.c2lnbmF0dXJl")
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// D20: the use of a token has its times, and a key that does not depend on the signature. Without a limit there is no
// use, and it costs nothing to find that out.
func TestUse(t *testing.T) { //nolint:paralleltest // it counts allocations
	one, other := budgetToken(t), budgetToken(t)
	other.Raw = one.SigningInput() + ".b3RoZXI"
	e := Entry{Config: EntryConfig{CertificatesPerToken: 4, BudgetUnavailable: "issue"}}
	a, err := e.Use(one)
	if err != nil || a.Most != 4 || !a.IssueUncounted || a.IssuedAt != time.Unix(1800000000, 0) ||
		a.Expires != time.Unix(1800000600, 0) {
		t.Errorf("%+v, %v", a, err)
	}
	if b, err := e.Use(other); err != nil || b.Key != a.Key {
		t.Errorf("another signature has another key: %v", err)
	}
	other.Raw = "eyJhbGciOiJFUzM4NCJ9" + one.Raw[len("eyJhbGciOiJFUzI1NiJ9"):]
	if b, err := e.Use(other); err != nil || b.Key == a.Key {
		t.Errorf("another header has the same key: %v", err)
	}
	e.Config = EntryConfig{SingleUse: true}
	if b, err := e.Use(one); err != nil || b.Most != 1 || b.IssueUncounted {
		t.Errorf("%+v, %v", b, err)
	}
	e.Config = EntryConfig{}
	if n := testing.AllocsPerRun(100, func() {
		if u, err := e.Use(one); u != nil || err != nil {
			t.Error(u, err)
		}
	}); n > 0 {
		t.Errorf("%v allocations without a limit", n)
	}
}

func BenchmarkUse(b *testing.B) {
	one := budgetToken(b)
	for name, c := range map[string]EntryConfig{"off": {}, "on": {SingleUse: true}} {
		b.Run(name, func(b *testing.B) {
			e := Entry{Config: c}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Use(one); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
