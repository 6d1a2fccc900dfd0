package journal_test

import (
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
)

func TestFilter(t *testing.T) {
	t.Parallel()
	salt := []byte("a salt of sixteen bytes")
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	plain := outcome(1)
	plain.Time = at
	digest := *plain
	digest.Subject, digest.SAN = journal.SubjectDigest(salt, plain.Subject), journal.SubjectDigest(salt, plain.SAN)
	begun := intent(1)
	begun.Time = at
	for name, row := range map[string]struct {
		filter        journal.Filter
		record        *journal.Record
		match, hidden bool
	}{
		"everything": {journal.Filter{}, plain, true, false},
		"no intents": {journal.Filter{}, begun, false, false},
		"intents":    {journal.Filter{Intents: true}, begun, true, false},
		"all members": {journal.Filter{
			Issuer: plain.Issuer, SAN: "alice@example.com", Subject: "alice",
			Key: plain.Key, Serial: plain.Serial, Result: journal.Issued,
		}, plain, true, false},
		"one member differs": {journal.Filter{Issuer: plain.Issuer, SAN: "bob@example.com"}, plain, false, false},
		"since":              {journal.Filter{Since: at}, plain, true, false},
		"until":              {journal.Filter{Until: at}, plain, false, false},
		"digest and salt":    {journal.Filter{SAN: "alice@example.com", Salt: salt}, &digest, true, false},
		"another name":       {journal.Filter{SAN: "bob@example.com", Salt: salt}, &digest, false, false},
		"digest, no salt":    {journal.Filter{SAN: "alice@example.com"}, &digest, false, true},
		"the digest itself":  {journal.Filter{SAN: digest.SAN}, &digest, true, true},
	} {
		if got := row.filter.Match(row.record); got != row.match {
			t.Errorf("%s: match %v", name, got)
		}
		if got := row.filter.Hides(row.record); got != row.hidden {
			t.Errorf("%s: hidden %v", name, got)
		}
	}
}

func TestNormalizeSerial(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0", 36) + "7a01"
	for in, want := range map[string]string{"": "", "7A:01": long, "0x7a01": long, long: long} {
		if got, ok := journal.NormalizeSerial(in); got != want || !ok {
			t.Errorf("%q became %q", in, got)
		}
	}
	if got, ok := journal.NormalizeSerial("7a0g"); ok {
		t.Errorf("accepted as %q", got)
	}
}
