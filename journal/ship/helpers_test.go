package ship_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open opens a journal; the test closes it.
func open(t testing.TB, c journal.Config, o journal.Options) *journal.Journal {
	t.Helper()
	j, err := journal.Open(c, o)
	must(t, err)
	return j
}

func shut(t testing.TB, j *journal.Journal, signatures int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	must(t, j.Close(ctx, signatures))
}

// eventually waits until holds returns true.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timeout while waiting until %s", what)
		}
	}
}

func hexOf(n int) string { return fmt.Sprintf("%064x", n) }

func intent(n int) *journal.Record {
	return &journal.Record{
		Kind: journal.Intent, RequestID: fmt.Sprintf("req-%d", n), Transport: "grpc", Source: "192.0.2.1",
		Issuer: "https://idp.example.com", Subject: "alice", SAN: "alice@example.com", Entry: "https://idp.example.com",
		Config: hexOf(7), ProviderKey: "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", Key: hexOf(n),
		KeyType: "ecdsa-sha2-256-nistp256", IssuerKey: hexOf(9), Serial: fmt.Sprintf("%040x", n), TBS: hexOf(n + 1),
	}
}

func outcome(n int) *journal.Record {
	r := intent(n)
	r.Kind, r.Result, r.Signatures, r.Micros = journal.Outcome, journal.Issued, 2, 1234
	r.SCTs = []journal.SCT{{Log: hexOf(3), Timestamp: 1700000000000, Extensions: "0000050000000001"}}
	r.Certificate = hexOf(n + 2)
	return r
}
