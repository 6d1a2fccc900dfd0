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
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/terminal"
)

// checkSignatures is how often a check signs with each key.
const checkSignatures = 5

// check opens the token once, signs with each key, and prints what it found.
func check(ctx context.Context, t *token, out io.Writer) error {
	g, err := t.open()
	if err != nil {
		t.close()
		return &cli.Error{Status: cli.ExitFound, Err: errors.New("mayfly-hsm: " + reason(err))}
	}
	defer t.close()
	t.set(g, nil)
	var table terminal.Table
	stop := t.watch("C_GetInfo", openLimit)
	if info, err := g.module.GetInfo(); err == nil {
		table.Add("library", fmt.Sprintf("%s, %s %d.%d (PKCS #11 %d.%d)", t.o.module, info.LibraryDescription,
			info.LibraryVersion.Major, info.LibraryVersion.Minor, info.CryptokiVersion.Major,
			info.CryptokiVersion.Minor))
	}
	stop()
	table.Add("token", fmt.Sprintf("%s, serial %s", g.info.Label, g.info.SerialNumber))
	table.Add("hardware", fmt.Sprintf("%s %s, firmware %d.%d", g.info.ManufacturerID, g.info.Model,
		g.info.FirmwareVersion.Major, g.info.FirmwareVersion.Minor))
	table.Add("sessions", human.Count(t.poolSize(g.info), "signature")+" at once")
	var errs []error
	for i, k := range t.served {
		if g.keys[i] == nil {
			errs = append(errs, errors.New("mayfly-hsm: "+reason(g.causes[i])))
			table.Add("key "+k.name.text, "not usable")
			continue
		}
		o := g.keys[i]
		table.Add("key "+k.name.text, fmt.Sprintf("%s, label %s, id:%s", describe(o.public), o.label,
			hex.EncodeToString(o.id)))
		if der, err := x509.MarshalPKIXPublicKey(o.public); err == nil {
			table.Add("  public key", fmt.Sprintf("SHA-256 %x", sha256.Sum256(der)))
		}
		table.Add("  can leave", o.exportable+": "+o.reason)
		took, err := signSome(ctx, k)
		if err != nil {
			errs = append(errs, fmt.Errorf("mayfly-hsm: %w", err))
			table.Add("  signs", "no")
			continue
		}
		table.Add("  signs", fmt.Sprintf("yes, in %s (median of %d, verified)", took.Round(10*time.Microsecond),
			checkSignatures))
	}
	if err := table.Write(out, terminal.StyleFor(out)); err != nil {
		return err
	}
	if len(errs) > 0 {
		return &cli.Error{Status: cli.ExitFound, Err: errors.Join(errs...)}
	}
	return nil
}

// signSome signs what is no certificate and no message of a protocol, and returns the median time.
func signSome(ctx context.Context, k *servedKey) (time.Duration, error) {
	message := []byte("mayfly-hsm --check: this message proves that the key signs, and means nothing else")
	digest := sha256.Sum256(message)
	var took []time.Duration
	for range checkSignatures {
		s, err := k.guarded()
		if err != nil {
			return 0, err
		}
		start := time.Now()
		if _, edwards := s.Public().(ed25519.PublicKey); edwards {
			_, err = s.SignContext(ctx, message, crypto.Hash(0))
		} else {
			_, err = s.SignContext(ctx, digest[:], crypto.SHA256)
		}
		if err != nil {
			return 0, err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
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
