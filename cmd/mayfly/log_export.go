package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/rekor/entry"
	"github.com/mayfly-ca/mayfly/tlog"
)

type logExportFlags struct {
	logFlags
	from, to, out string
	pem           bool
}

func newLogExport() *cobra.Command {
	f := &logExportFlags{}
	cmd := &cobra.Command{
		Use:   "export [--config FILE | --dir DIR | URL]",
		Short: "Copy the entries of a log as JSON Lines or PEM",
		Long: "export writes one JSON object for each entry: log, index, timestamp, serial, SAN, issuer of the\n" +
			"identity, digest of the TBSCertificate, and the precertificate in base64. With --pem it writes only\n" +
			"the precertificates. It verifies the checkpoint; \"mayfly log fsck\" verifies the entries. Of a log of\n" +
			"signatures, it writes the kind, the signed digest, the signer and the entry itself.",
		Example: "  mayfly log export --config mayfly.yaml --from 2026-11-01T00:00:00Z --out entries.jsonl\n" +
			"  mayfly log export https://ca.example.com/ct --public-key log.pub.pem --from 100 --to 200 --pem",
		Args: cobra.MaximumNArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			return f.run(cmd.Context(), args, cli.Streams{In: nil, Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()})
		}),
	}
	f.register(cmd)
	if err := cmd.Flags().MarkHidden("json"); err != nil { // the output is always JSON or PEM
		panic(err)
	}
	fl := cmd.Flags()
	fl.StringVar(&f.from, "from", "", "first entry: an index, or a time in RFC 3339")
	fl.StringVar(&f.to, "to", "", "end, not included: an index, or a time in RFC 3339")
	fl.StringVar(&f.out, "out", "", "file to write (default: standard output)")
	fl.BoolVar(&f.pem, "pem", false, "only the certificates, in PEM")
	return cmd
}

// bound is an index or a time.
type bound struct {
	index uint64
	at    time.Time
}

func parseBound(flag, text string, otherwise uint64) (bound, error) {
	if text == "" {
		return bound{index: otherwise}, nil
	}
	if n, err := strconv.ParseUint(text, 10, 63); err == nil {
		return bound{index: n}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return bound{}, cli.Usage("--%s %q: write an index, or a time such as 2026-11-01T00:00:00Z", flag, text)
	}
	return bound{index: otherwise, at: at}, nil
}

func (f *logExportFlags) run(ctx context.Context, args []string, std cli.Streams) (err error) {
	from, err := parseBound("from", f.from, 0)
	if err != nil {
		return err
	}
	to, err := parseBound("to", f.to, math.MaxUint64)
	if err != nil {
		return err
	}
	if from.at.IsZero() && to.at.IsZero() && from.index > to.index {
		return cli.Usage("--from %d is greater than --to %d, so no entry can match; swap them",
			from.index, to.index)
	}
	if f.log == logRekor && (!from.at.IsZero() || !to.at.IsZero()) {
		return cli.Usage("the entries of a log of signatures have no time; write an index for --from and --to")
	}
	targets, err := f.targets(ctx, args)
	if err != nil {
		return err
	}
	w := std.Out
	if f.out != "" {
		file, err := os.OpenFile(f.out, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644) //nolint:gosec // the content of a log is public
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		w = file
	}
	buffered := bufio.NewWriterSize(w, 1<<16)
	p := terminal.NewProgress(std.Err)
	if f.out == "" {
		p = nil // the progress would be mixed with the entries
	}
	defer p.Clear()
	for _, t := range targets {
		h, err := t.Head(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", t.Log.Name(), err)
		}
		for e, err := range t.Entries(ctx, h, from.index, to.index) {
			if err != nil {
				return fmt.Errorf("%s: %w", t.Log.Name(), err)
			}
			p.Showf("%s: %d of %d entries", t.Log.Name(), e.Index+1, h.Size)
			at := e.Time()
			if at.Before(from.at) || !to.at.IsZero() && !at.Before(to.at) {
				continue
			}
			write := f.write
			if t.Kind == tlog.Rekor {
				write = f.writeSignature
			}
			if err := write(buffered, t, e); err != nil {
				return err
			}
		}
	}
	return buffered.Flush()
}

// exportedEntry is one line of "log export".
type exportedEntry struct {
	Log           string    `json:"log"` // the origin
	Index         uint64    `json:"index"`
	Timestamp     time.Time `json:"timestamp"`
	Serial        string    `json:"serial,omitempty"`
	SAN           string    `json:"san,omitempty"`
	Issuer        string    `json:"issuer,omitempty"` // of the identity
	NotAfter      time.Time `json:"not_after,omitzero"`
	IssuerKeyHash string    `json:"issuer_key_hash,omitempty"`
	TBSDigest     string    `json:"tbs_sha256"` // of the TBSCertificate without poison and SCT list
	DER           []byte    `json:"der"`
	Problem       string    `json:"problem,omitempty"` // why fields are missing
}

func (f *logExportFlags) write(w io.Writer, t logTarget, e *monitor.Entry) error {
	der := e.Content
	if e.Precert {
		der = e.Precertificate
	}
	if f.pem {
		_, err := fmt.Fprintf(w, "# %s entry %d %s\n%s", terminal.Printable(t.Origin), e.Index,
			e.Time().Format(time.RFC3339Nano), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		return err
	}
	line := exportedEntry{Log: t.Origin, Index: e.Index, Timestamp: e.Time(), DER: der}
	if e.Precert {
		sum := sha256.Sum256(e.Content)
		line.TBSDigest, line.IssuerKeyHash = hex.EncodeToString(sum[:]), hex.EncodeToString(e.IssuerKeyHash[:])
	}
	if c, err := x509.ParseCertificate(der); err != nil {
		line.Problem = err.Error()
	} else {
		line.Serial, line.NotAfter = hex.EncodeToString(c.SerialNumber.Bytes()), c.NotAfter.UTC()
		if id, err := identity.Parse(c); err != nil {
			line.Problem = err.Error()
		} else {
			line.SAN, line.Issuer = id.SAN.Value, id.Issuer
		}
	}
	return encodeLine(w, line)
}

func encodeLine(w io.Writer, line any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(line)
}

// exportedSignature is one line of "log export --log rekor".
type exportedSignature struct {
	Log     string           `json:"log"` // the origin
	Index   uint64           `json:"index"`
	Kind    string           `json:"kind,omitempty"`
	Digest  string           `json:"digest,omitempty"` // ALGORITHM:HEX, of what was signed
	Signers []exportedSigner `json:"signers,omitempty"`
	Entry   []byte           `json:"entry"`             // canonical JSON, as it was logged
	Problem string           `json:"problem,omitempty"` // why fields are missing
}

// exportedSigner has the fields of a certificate, or the SHA-256 of a key.
type exportedSigner struct {
	Serial   string    `json:"serial,omitempty"`
	SAN      string    `json:"san,omitempty"`
	Issuer   string    `json:"issuer,omitempty"` // of the identity
	NotAfter time.Time `json:"not_after,omitzero"`
	Key      string    `json:"key_sha256,omitempty"` // of the SubjectPublicKeyInfo
	DER      []byte    `json:"der,omitempty"`        // the certificate
}

func (f *logExportFlags) writeSignature(w io.Writer, t logTarget, e *monitor.Entry) error {
	line := exportedSignature{Log: t.Origin, Index: e.Index, Entry: e.Content}
	one, err := entry.Parse(e.Content)
	if err != nil {
		line.Problem = err.Error()
		one = &entry.Entry{}
	} else {
		line.Kind, line.Digest = one.Kind, one.Digest.String()
	}
	for _, s := range one.Signatures {
		if s.Certificate == nil {
			sum := sha256.Sum256(s.Key)
			line.Signers = append(line.Signers, exportedSigner{Key: hex.EncodeToString(sum[:])})
			continue
		}
		if f.pem {
			if _, err := fmt.Fprintf(w, "# %s entry %d\n%s", terminal.Printable(t.Origin), e.Index,
				pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate.Raw})); err != nil {
				return err
			}
		}
		signer := exportedSigner{
			Serial:   hex.EncodeToString(s.Certificate.SerialNumber.Bytes()),
			NotAfter: s.Certificate.NotAfter.UTC(), DER: s.Certificate.Raw,
		}
		if id, err := identity.Parse(s.Certificate); err == nil {
			signer.SAN, signer.Issuer = id.SAN.Value, id.Issuer
		}
		line.Signers = append(line.Signers, signer)
	}
	if f.pem {
		return nil
	}
	return encodeLine(w, line)
}
