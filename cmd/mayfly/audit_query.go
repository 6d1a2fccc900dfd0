package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/journal"
)

// queryFlags are the filters of a query. All that are given must hold.
type queryFlags struct {
	issuer, subject, san, providerKey, serial, requestID, key, result, reason, since, until string
	intents, json                                                                           bool
}

func newAuditQuery() *cobra.Command {
	var from journalFlags
	var f queryFlags
	cmd := &cobra.Command{
		Use:   "query {JOURNAL | --config FILE}",
		Short: "Find records: who got a certificate or a refusal, when and why",
		Long: "query prints the records that match all given filters. Intents are omitted, because an outcome repeats the content of\n" +
			"its intent. If subjects are digests, write the plain subject: query computes the digest with the journal's salt.",
		Example: "  mayfly audit query --config mayfly.yaml --san alice@example.com --since 24h\n" +
			"  mayfly audit query journal.jsonl --result denied --reason POLICY_DENIED --since 2026-11-01 --json",
		Args: cobra.MaximumNArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			t, err := from.target(args)
			if err != nil {
				return err
			}
			salt, err := t.readSalt()
			if err != nil {
				return err
			}
			q, err := f.compile(salt, time.Now())
			if err != nil {
				return err
			}
			return q.run(cmd.Context(), t, cli.Streams{Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()}, f.json)
		}),
	}
	from.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.issuer, "issuer", "", "issuer of the token")
	fl.StringVar(&f.subject, "subject", "", "subject of the token")
	fl.StringVar(&f.san, "san", "", "identity in the certificate")
	fl.StringVar(&f.providerKey, "provider-key", "", "thumbprint (RFC 7638) of the key that verified the token")
	fl.StringVar(&f.serial, "serial", "", "serial number, hexadecimal")
	fl.StringVar(&f.requestID, "request-id", "", "id of the request")
	fl.StringVar(&f.key, "key", "", "certified key: SHA-256 of its SubjectPublicKeyInfo, or a PEM file with the key or the certificate")
	fl.StringVar(&f.result, "result", "", "issued, failed or denied")
	fl.StringVar(&f.reason, "reason", "", "reason of docs/errors.md, or kind of an alarm")
	fl.StringVar(&f.since, "since", "", "not before: RFC 3339, a date, or how long ago (24h)")
	fl.StringVar(&f.until, "until", "", "before: likewise")
	fl.BoolVar(&f.intents, "intents", false, "also print intents")
	fl.BoolVar(&f.json, "json", false, "print the records as they are in the journal")
	cli.CompleteWords(cmd, "result", string(journal.Issued), string(journal.Failed), string(journal.Denied))
	return cmd
}

// query is what a record is held against.
type query struct {
	equal        []func(*journal.Record) bool
	since, until time.Time
	intents      bool
	wantsNames   bool // by subject or SAN
	salted       bool
}

func (f *queryFlags) compile(salt []byte, now time.Time) (*query, error) {
	q := &query{intents: f.intents, salted: salt != nil, wantsNames: f.subject != "" || f.san != ""}
	add := func(want string, of func(*journal.Record) string) {
		if want != "" {
			q.equal = append(q.equal, func(r *journal.Record) bool { return of(r) == want })
		}
	}
	named := func(want string, of func(*journal.Record) string) {
		if want == "" {
			return
		}
		digest := want
		if salt != nil {
			digest = journal.SubjectDigest(salt, want)
		}
		q.equal = append(q.equal, func(r *journal.Record) bool { return of(r) == want || of(r) == digest })
	}
	key, err := keyDigest(f.key)
	if err != nil {
		return nil, err
	}
	switch f.result {
	case "", string(journal.Issued), string(journal.Failed), string(journal.Denied):
	default:
		return nil, cli.Usage("--result %q: write issued, failed or denied", f.result)
	}
	add(f.issuer, func(r *journal.Record) string { return r.Issuer })
	named(f.subject, func(r *journal.Record) string { return r.Subject })
	if strings.Trim(serialOf(f.serial), "0123456789abcdef") != "" {
		return nil, cli.Usage("--serial %q: write it in hexadecimal", f.serial)
	}
	named(f.san, func(r *journal.Record) string { return r.SAN })
	add(f.providerKey, func(r *journal.Record) string { return r.ProviderKey })
	add(serialOf(f.serial), func(r *journal.Record) string { return r.Serial })
	add(f.requestID, func(r *journal.Record) string { return r.RequestID })
	add(key, func(r *journal.Record) string { return r.Key })
	add(f.result, func(r *journal.Record) string { return string(r.Result) })
	add(f.reason, func(r *journal.Record) string { return r.Reason })
	if q.since, err = moment("--since", f.since, now); err != nil {
		return nil, err
	}
	if q.until, err = moment("--until", f.until, now); err != nil {
		return nil, err
	}
	if !q.since.IsZero() && !q.until.IsZero() && !q.since.Before(q.until) {
		return nil, cli.Usage("--since %s is not before --until %s: nothing lies between; write them the other way round", f.since, f.until)
	}
	return q, nil
}

// serialOf is a serial number as the journal has it: other tools leave zeroes out or write colons and capitals.
func serialOf(s string) string {
	s = strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(s, "0x"), ":", ""))
	if s == "" || len(s) >= 40 {
		return s
	}
	return strings.Repeat("0", 40-len(s)) + s
}

// keyDigest is the SHA-256 of a SubjectPublicKeyInfo: as it is written, or of the key or the certificate in a file.
func keyDigest(s string) (string, error) {
	low := strings.ToLower(strings.ReplaceAll(s, ":", ""))
	if raw, err := hex.DecodeString(low); s == "" || err == nil && len(raw) == sha256.Size {
		return low, nil
	}
	data, err := input.Read(os.Stdin, s)
	if err != nil {
		return "", fmt.Errorf("--key: %w; write 64 hexadecimal digits, or the name of a PEM file", err)
	}
	blocks, err := pemfile.Decode(data)
	if err != nil {
		return "", fmt.Errorf("--key: %s: %w", s, err)
	}
	block := blocks[0]
	spki := block.Bytes
	if block.Type == "CERTIFICATE" {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return "", fmt.Errorf("--key: %s: %w", s, err)
		}
		spki = c.RawSubjectPublicKeyInfo
	} else if block.Type != "PUBLIC KEY" {
		return "", fmt.Errorf("--key: %s holds a %s, not a public key or a certificate", s, block.Type)
	}
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:]), nil
}

// moment reads a time, a date or a duration before now. "" is no time.
func moment(flag, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return time.Time{}, cli.Usage("%s %q: write RFC 3339 (2026-11-24T12:00:00Z), a date (2026-11-24), or how long ago (24h)", flag, s)
	}
	return now.Add(-d), nil
}

func (q *query) matches(r *journal.Record) bool {
	if r.Kind == journal.Intent && !q.intents || r.Time.Before(q.since) || !q.until.IsZero() && !r.Time.Before(q.until) {
		return false
	}
	for _, holds := range q.equal {
		if !holds(r) {
			return false
		}
	}
	return true
}

func (q *query) run(ctx context.Context, t target, std cli.Streams, asJSON bool) error {
	var found []journal.Record
	hidden := false
	for e, err := range journal.Read(t.path, 0) {
		var d *journal.Damage
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &d):
			reportDamage(std.Err, d)
			continue
		case err != nil:
			return err
		}
		hidden = hidden || q.wantsNames && !q.salted && strings.HasPrefix(e.SAN, "hmac-sha256:")
		if !q.matches(&e.Record) {
			continue
		}
		if !asJSON {
			found = append(found, e.Record)
		} else if _, err := std.Out.Write(e.Raw); err != nil {
			return err
		}
	}
	if hidden {
		fmt.Fprintf(std.Err, "mayfly: subjects in this journal are digests, and their salt is not at hand: none can be found by name; name it with --config\n")
	}
	if asJSON {
		return nil
	}
	if len(found) == 0 {
		fmt.Fprintln(std.Err, "mayfly: no record matches")
		return nil
	}
	return printRecords(std.Out, found)
}
