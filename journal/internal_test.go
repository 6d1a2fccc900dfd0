package journal

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The line of every record is JSON that reads back as the same record, is accepted by ParseRecord and follows in the
// chain.
func FuzzEncode(f *testing.F) {
	f.Add("alice", "text", uint64(1), 2, int64(1795700000000000))
	f.Add("\xff\x00\u2028\"", `\`, uint64(1<<63), 0, int64(0))
	f.Fuzz(func(t *testing.T, subject, text string, number uint64, count int, micros int64) {
		r := Record{
			Kind: Outcome, Subject: subject, SAN: text, Text: text, Count: max(count, 0),
			SCTs: []SCT{{Log: subject, Timestamp: number, Extensions: text}},
		}
		c := newChain([]byte(text))
		c.seq = number >> 1
		line := c.appendRecord(nil, &r, time.UnixMicro(micros%(1<<55)))
		for _, s := range []*string{&r.Subject, &r.SAN, &r.Text, &r.SCTs[0].Log, &r.SCTs[0].Extensions} {
			*s = validText(*s)
		}
		if y := r.Time.Year(); y < 0 || y > 9999 {
			t.Skip("no RFC 3339 time")
		}
		got, err := ParseRecord(line)
		if err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		var other Record
		if err := json.Unmarshal(line, &other); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if diff := cmp.Diff(r, got) + cmp.Diff(r, other); diff != "" {
			t.Fatal(diff)
		}
		again := newChain([]byte(text))
		again.seq = number >> 1
		if err := again.follow(line); err != nil {
			t.Fatal(err)
		}
	})
}

// validText returns text with U+FFFD for each byte that is not UTF-8.
func validText(s string) string {
	var b strings.Builder
	for _, r := range s {
		b.WriteRune(r)
	}
	return b.String()
}

func BenchmarkEncode(b *testing.B) {
	r := Record{
		Kind: Outcome, RequestID: "4XQ2ZJ7N5C3DLXU6E2SLWZ4FZQ", Transport: "grpc", Source: "192.0.2.1",
		Issuer:  "https://token.actions.example.com",
		Subject: "repo:org/repo:ref:refs/heads/main",
		SAN:     "https://git.example.com/org/repo/.github/workflows/release.yml@refs/heads/main",
		Entry:   "https://token.actions.example.com",
		Config:  zeroes, ProviderKey: zeroes[:43], Key: zeroes, KeyType: "ecdsa-sha2-256-nistp256", IssuerKey: zeroes,
		Serial: zeroes[:40], TBS: zeroes, Result: Issued,
		SCTs: []SCT{{Log: zeroes, Timestamp: 1795700000000, Extensions: "0000050000000001"}}, Certificate: zeroes,
		Signatures: 2, Micros: 4321,
	}
	c, now := newChain(nil), time.Now()
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = c.appendRecord(buf[:0], &r, now)
	}
	b.SetBytes(int64(len(buf)))
}
