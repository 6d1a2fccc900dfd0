package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/journal"
)

// queryFlags are the filters of a query. A record must match all of them.
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
		Long: "query prints the records that match all given filters. Intents are omitted, because an outcome repeats\n" +
			"the content of its intent. If subjects are digests, write the plain subject: query computes the digest\n" +
			"with the journal's salt.",
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
			filter, err := f.filter(salt, time.Now())
			if err != nil {
				return err
			}
			return f.run(cmd, t.path, filter)
		}),
	}
	from.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.issuer, "issuer", "", "issuer of the token")
	fl.StringVar(&f.subject, "subject", "", "subject of the token")
	fl.StringVar(&f.san, "san", "", "identity in the certificate")
	fl.StringVar(&f.providerKey, "provider-key", "", "thumbprint (RFC 7638) of the key that verified the token")
	fl.StringVar(&f.serial, "serial", "", "serial number, hexadecimal")
	fl.StringVar(&f.requestID, "request-id", "", "ID of the request")
	fl.StringVar(&f.key, "key", "",
		"certified key: SHA-256 of its SubjectPublicKeyInfo, or a PEM file with the key or the certificate")
	fl.StringVar(&f.result, "result", "", "issued, failed, denied, canary or logged")
	fl.StringVar(&f.reason, "reason", "", "reason of docs/errors.md, or kind of an alarm")
	fl.StringVar(&f.since, "since", "", "not before: RFC 3339, a date, or how long ago (24h)")
	fl.StringVar(&f.until, "until", "", "before: likewise")
	fl.BoolVar(&f.intents, "intents", false, "also print intents")
	fl.BoolVar(&f.json, "json", false, "print the records as they are in the journal")
	cli.CompleteWords(cmd, "result", string(journal.Issued), string(journal.Failed), string(journal.Denied),
		string(journal.Canary), string(journal.Logged))
	return cmd
}

// filter returns what the flags select.
func (f *queryFlags) filter(salt []byte, now time.Time) (*journal.Filter, error) {
	q := &journal.Filter{
		Issuer: f.issuer, Subject: f.subject, SAN: f.san, ProviderKey: f.providerKey, RequestID: f.requestID,
		Result: journal.Result(f.result), Reason: f.reason, Intents: f.intents, Salt: salt,
	}
	var err error
	if q.Key, err = keyDigest(f.key); err != nil {
		return nil, err
	}
	if f.result != "" && !slices.Contains(journal.Results(), q.Result) {
		return nil, cli.Usage("--result %q: write issued, failed, denied or canary", f.result)
	}
	var ok bool
	if q.Serial, ok = journal.NormalizeSerial(f.serial); !ok {
		return nil, cli.Usage("--serial %q: write it in hexadecimal", f.serial)
	}
	if q.Since, err = moment("--since", f.since, now); err != nil {
		return nil, err
	}
	if q.Until, err = moment("--until", f.until, now); err != nil {
		return nil, err
	}
	if !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until) {
		return nil, cli.Usage("--since %s is not before --until %s, so no record can match; swap them", f.since,
			f.until)
	}
	return q, nil
}

// keyDigest returns the SHA-256 of a SubjectPublicKeyInfo: s itself, or that of the key or the certificate in the file
// s.
func keyDigest(s string) (string, error) {
	low := strings.ToLower(strings.ReplaceAll(s, ":", ""))
	if raw, err := hex.DecodeString(low); s == "" || err == nil && len(raw) == sha256.Size {
		return low, nil
	}
	data, err := input.Read(os.Stdin, s)
	if err != nil {
		return "", fault.Cure(fmt.Errorf("--key: %w", err), "write 64 hexadecimal digits, or the name of a PEM file")
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
		return "", fmt.Errorf("--key: %s has a %s, not a public key or a certificate", s, block.Type)
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
		return time.Time{},
			cli.Usage("%s %q: write RFC 3339 (2026-11-24T12:00:00Z), a date (2026-11-24), or how long ago (24h)", flag,
				s)
	}
	return now.Add(-d), nil
}

// run prints the records that the filter selects.
func (f *queryFlags) run(cmd *cobra.Command, path string, filter *journal.Filter) error {
	ctx, std := cmd.Context(), cli.Streams{Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()}
	var found []journal.Record
	hidden := false
	for e, err := range journal.Read(path, 0) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if d, ok := errors.AsType[*journal.Damage](err); ok {
			reportDamage(std.Err, d)
			continue
		}
		if err != nil {
			return err
		}
		hidden = hidden || filter.Hides(&e.Record)
		if !filter.Match(&e.Record) {
			continue
		}
		if !f.json {
			found = append(found, e.Record)
		} else if _, err := std.Out.Write(e.Raw); err != nil {
			return err
		}
	}
	if hidden {
		fmt.Fprintln(std.Err,
			"mayfly: subjects in this journal are digests, and without the salt they cannot be found "+
				"by their plain text; use --config")
	}
	if f.json {
		return nil
	}
	if len(found) == 0 {
		fmt.Fprintln(std.Err, "mayfly: no record matches")
		return nil
	}
	return printRecords(std.Out, found)
}
