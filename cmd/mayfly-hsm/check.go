//go:build cgo

package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11/token"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/terminal"
)

// check opens the token once, signs with each key, and prints what it found.
func check(ctx context.Context, module string, t *token.Token, out io.Writer) error {
	r, err := t.Check(ctx)
	if err != nil {
		return &cli.Error{Status: cli.ExitFound, Err: fmt.Errorf("mayfly-hsm: %w", err)}
	}
	var table terminal.Table
	if l := r.Library; l != (pkcs11.Info{}) {
		table.Add("library", fmt.Sprintf("%s, %s %d.%d (PKCS #11 %d.%d)", module, l.LibraryDescription,
			l.LibraryVersion.Major, l.LibraryVersion.Minor, l.CryptokiVersion.Major, l.CryptokiVersion.Minor))
	}
	table.Add("token", fmt.Sprintf("%s, serial %s", r.Token.Label, r.Token.SerialNumber))
	table.Add("hardware", fmt.Sprintf("%s %s, firmware %d.%d", r.Token.ManufacturerID, r.Token.Model,
		r.Token.FirmwareVersion.Major, r.Token.FirmwareVersion.Minor))
	table.Add("sessions", human.Count(r.Signatures, "signature")+" at once")
	var errs []error
	for _, k := range r.Keys {
		if k.Err != nil {
			errs = append(errs, fmt.Errorf("mayfly-hsm: %w", k.Err))
		}
		if k.Public == nil {
			table.Add("key "+k.Name.String(), "not usable")
			continue
		}
		table.Add("key "+k.Name.String(), fmt.Sprintf("%s, label %s, id:%s", describe(k.Public), k.Label,
			hex.EncodeToString(k.ID)))
		if der, err := x509.MarshalPKIXPublicKey(k.Public); err == nil {
			table.Add("  public key", fmt.Sprintf("SHA-256 %x", sha256.Sum256(der)))
		}
		table.Add("  can leave", k.Exportable+": "+k.Reason)
		if k.Err != nil {
			table.Add("  signs", "no")
			continue
		}
		table.Add("  signs", fmt.Sprintf("yes, in %s (median of %d, verified)", k.Took.Round(10*time.Microsecond),
			token.CheckSignatures))
	}
	if err := table.Write(out, terminal.StyleFor(out)); err != nil {
		return err
	}
	if len(errs) > 0 {
		return &cli.Error{Status: cli.ExitFound, Err: errors.Join(errs...)}
	}
	return nil
}

// describe names the kind of a key.
func describe(public crypto.PublicKey) string {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return fmt.Sprintf("%T", public)
}
