// Package records makes journals and records for the tests of package journal and of the packages that read journals.
package records

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
)

// Open opens a journal. The test closes it.
func Open(t testing.TB, c journal.Config, o journal.Options) *journal.Journal {
	t.Helper()
	j, err := journal.Open(c, o)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// Close closes a journal in order, within ten seconds.
func Close(t testing.TB, j *journal.Journal, signatures int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := j.Close(ctx, signatures); err != nil {
		t.Fatal(err)
	}
}

// Digest returns a digest in hexadecimal that stands for n.
func Digest(n int) string { return fmt.Sprintf("%064x", n) }

// Intent returns a complete intent. Its request ID, key, serial number and TBSCertificate depend on n.
func Intent(n int) *journal.Record {
	return &journal.Record{
		Kind: journal.Intent, RequestID: fmt.Sprintf("req-%d", n), Transport: "grpc", Source: "192.0.2.1",
		Issuer: "https://idp.example.com", Subject: "alice", SAN: "alice@example.com", Entry: "https://idp.example.com",
		Config: Digest(7), ProviderKey: "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", Key: Digest(n),
		KeyType: "ecdsa-sha2-256-nistp256", IssuerKey: Digest(9), Serial: fmt.Sprintf("%040x", n), TBS: Digest(n + 1),
	}
}

// Outcome returns the outcome of Intent(n): a certificate with one SCT.
func Outcome(n int) *journal.Record {
	r := Intent(n)
	r.Kind, r.Result, r.Signatures, r.Micros = journal.Outcome, journal.Issued, 2, 1234
	r.SCTs = []journal.SCT{{Log: Digest(3), Timestamp: 1700000000000, Extensions: "0000050000000001"}}
	r.Certificate = Digest(n + 2)
	return r
}

// Eventually waits until holds returns true, for at most 20 seconds.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timeout while waiting until %s", what)
		}
	}
}
