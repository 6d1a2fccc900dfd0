package client

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/tbs"
)

// Trust is whom the client believes.
type Trust struct {
	// Chains have the issuing certificate first and the root last.
	Chains [][]*x509.Certificate
	Logs   []Log
	// MinSCTs is how many SCTs of different logs a certificate needs; 0 accepts one without.
	MinSCTs int
}

// Log is a Certificate Transparency log. Zero times are no bounds.
type Log struct {
	Key      crypto.PublicKey
	From, To time.Time
}

// Verify checks the first of certs at now; the others are its chain, as the server sent them. It checks its chain to a trusted root, its usage and validity, and that enough of its SCTs are
// from trusted logs and were made for it (RFC 6962 §3.2). It returns those SCTs.
func Verify(certs []*x509.Certificate, t Trust, now time.Time) ([]tbs.SCT, error) {
	leaf, chain := certs[0], certs[1:]
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range t.Chains {
		roots.AddCert(c[len(c)-1])
		for _, i := range c[:len(c)-1] {
			intermediates.AddCert(i)
		}
	}
	for _, c := range chain {
		intermediates.AddCert(c)
	}
	identity.Handle(leaf)
	paths, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	})
	if err != nil {
		return nil, fmt.Errorf("the certificate does not lead to a trusted root: %w", err)
	}
	if t.MinSCTs == 0 {
		return nil, nil
	}
	return verifySCTs(leaf, paths[0][1], t)
}

func verifySCTs(leaf, issuer *x509.Certificate, t Trust) ([]tbs.SCT, error) {
	bare, raw, err := tbs.Unlisted(leaf.Raw)
	if err != nil {
		return nil, err
	}
	entry := tbs.Entry{IssuerKeyHash: sha256.Sum256(issuer.RawSubjectPublicKeyInfo), TBS: bare}
	var good []tbs.SCT
	problem := errors.New("it has none")
	seen := map[[32]byte]bool{}
	for _, data := range raw {
		sct, err := tbs.ParseSCT(data)
		if err == nil {
			err = t.verifySCT(sct, entry)
		}
		if err != nil {
			problem = err
			continue
		}
		if !seen[sct.LogID] {
			seen[sct.LogID] = true
			good = append(good, sct)
		}
	}
	if len(good) < t.MinSCTs {
		return nil, fmt.Errorf("the certificate carries %d valid SCTs of trusted logs, %d are needed: %w", len(good), t.MinSCTs, problem)
	}
	return good, nil
}

func (t Trust) verifySCT(sct tbs.SCT, entry tbs.Entry) error {
	for _, l := range t.Logs {
		spki, err := x509.MarshalPKIXPublicKey(l.Key)
		if err != nil {
			return err
		}
		if id := sha256.Sum256(spki); id != sct.LogID {
			continue
		}
		if at := sct.Time(); at.Before(l.From) || !l.To.IsZero() && at.After(l.To) {
			return fmt.Errorf("an SCT of %s is outside of its log's validity", at.Format(time.RFC3339))
		}
		return sct.Verify(l.Key, entry)
	}
	return fmt.Errorf("the log %x is not trusted", sct.LogID[:8])
}

// matches checks that the answer is for the key that was sent.
func matches(leaf *x509.Certificate, key crypto.PublicKey) error {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return err
	}
	if !bytes.Equal(spki, leaf.RawSubjectPublicKeyInfo) {
		return errors.New("the certificate is for another key than the one that was sent")
	}
	return nil
}
