// Package sign signs the files of a release with mayfly: each file gets a certificate of its own, an entry in a log of
// signatures, a timestamp, and a Sigstore bundle beside the trusted root.
//
// Without [Options.Service], the services are those of "mayfly dev", in this process and on loopback, with keys that
// are made for this release and removed with it: a complete chain that shows that the programs verify what they make.
// Who trusts such a signature trusts where trusted_root.json came from. With a service, the signatures are those of a
// running instance. Every bundle was verified against the trusted root before it is written.
package sign

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/dev"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/trial"
	"github.com/mayfly-ca/mayfly/trust"
	"github.com/mayfly-ca/mayfly/tsa"
)

// Suffix is what the name of a bundle has after the name of the file.
const Suffix = ".sigstore.json"

// Identity is who signs in the lab.
const Identity = "release@mayfly.invalid"

// Service is a running instance that signs.
type Service struct {
	CA, TSA, Rekor   string // URLs, as in [trial.Options]
	TrustedRoot      []byte
	Token            string
	Identity, Issuer string // that the certificate must have
}

// Options says what is signed.
type Options struct {
	Dir   string   // of the files
	Files []string // names in Dir
	// Statement is the name of a file in Dir that is an in-toto statement, and is signed in an envelope; Subject is the
	// name of a file in Dir that the statement is about.
	Statement, Subject string
	Out                string   // directory for the bundles and trusted_root.json; it is made
	Service            *Service // nil: the lab
	Log                *slog.Logger
}

// Signer is who signed.
type Signer struct {
	Identity string `json:"identity"`
	Issuer   string `json:"issuer"`
}

// labTimeout bounds the work of the lab: a release has some forty files.
const labTimeout = 15 * time.Minute

// Release signs all files.
func Release(ctx context.Context, o Options) (Signer, error) {
	if err := os.MkdirAll(o.Out, 0o755); err != nil { //nolint:gosec // everyone may read a release
		return Signer{}, err
	}
	if o.Service != nil {
		return o.with(ctx, *o.Service)
	}
	dir, err := os.MkdirTemp("", "mayfly-release-")
	if err != nil {
		return Signer{}, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // its keys are of no use to anybody
	ctx, stop := context.WithTimeout(ctx, labTimeout)
	defer stop()
	var signer Signer
	err = dev.Run(ctx, &dev.Options{
		Dir: filepath.Join(dir, "lab"), HTTP: loopback, GRPC: "off", Admin: "off", IDP: loopback,
		Ready: func(ctx context.Context, lab dev.Instance) error {
			s := Service{
				CA: lab.URL, TSA: lab.URL + tsa.Path, Rekor: lab.URL, Identity: Identity, Issuer: lab.Issuer,
			}
			var err error
			if s.Token, err = lab.Token(Identity); err != nil {
				return err
			}
			if s.TrustedRoot, err = lab.TrustedRoot(); err != nil {
				return err
			}
			signer, err = o.with(ctx, s)
			stop() // the services end, and Run returns
			return err
		},
	}, o.Log, io.Discard)
	if err == nil && signer == (Signer{}) {
		err = errors.New("the services ended before every file was signed")
	}
	return signer, err
}

// loopback is an address with a free port.
const loopback = "127.0.0.1:0"

// with signs with one instance.
func (o Options) with(ctx context.Context, s Service) (Signer, error) {
	sign := func(name, subject string) error {
		data, err := os.ReadFile(filepath.Join(o.Dir, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		r, err := trial.Sign(ctx, trial.Options{
			CA: s.CA, TSA: s.TSA, Rekor: s.Rekor, TrustedRoot: s.TrustedRoot, Token: s.Token, Identity: s.Identity,
			Issuer: s.Issuer, Artifact: data, Statement: subject, Timeout: time.Minute,
		})
		if err != nil {
			return fmt.Errorf("sign %s: %w", name, err)
		}
		return durable.WriteFile(filepath.Join(o.Out, filepath.Base(name)+Suffix), r.Bundle, 0o644)
	}
	for _, name := range o.Files {
		if err := sign(name, ""); err != nil {
			return Signer{}, err
		}
	}
	if o.Statement != "" {
		data, err := os.ReadFile(filepath.Join(o.Dir, o.Subject))
		if err != nil {
			return Signer{}, err
		}
		sum := sha256.Sum256(data)
		if err := sign(o.Statement, "sha256:"+hex.EncodeToString(sum[:])); err != nil {
			return Signer{}, err
		}
	}
	signer := Signer{s.Identity, s.Issuer}
	return signer, durable.WriteFile(filepath.Join(o.Out, trust.RootName), s.TrustedRoot, 0o644)
}
