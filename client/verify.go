package client

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/tbs"
)

// NoSCTs as [Trust.MinSCTs] accepts a certificate without an SCT of a trusted log.
const NoSCTs = -1

// Trust holds the CAs and logs that the client trusts. Package trust converts a trusted_root.json: ParseTrustedRoot and
// Material.ForClient.
type Trust struct {
	// Authorities are trusted within their validity period.
	Authorities []Authority
	// Chains are authorities without a validity period: issuing certificate first, root last.
	Chains [][]*x509.Certificate
	// Logs are the Certificate Transparency logs. Of each, the key and the window are used: an SCT with a timestamp
	// outside of the window is refused. Both bounds are inclusive, as in a trusted root.
	Logs []loglist.Log
	// MinSCTs is the number of SCTs of different trusted logs that a certificate needs. 0 means 1; [NoSCTs] turns the
	// check off.
	MinSCTs int
}

// Authority is a chain and the period in which it is trusted. A certificate that is verified outside of the period is
// refused, even if no certificate of the chain has expired: this is how an operator revokes trust in a CA whose key is
// compromised. A zero time is no bound; both bounds are inclusive.
type Authority struct {
	Chain    []*x509.Certificate // issuing certificate first, root last
	From, To time.Time
}

func (a Authority) covers(t time.Time) bool {
	return !t.Before(a.From) && (a.To.IsZero() || !t.After(a.To))
}

// Verify checks the first certificate of certs at the time now; the others are its chain, as the server sent them. The
// certificate MUST chain to the root of an authority that is trusted at that time, be for code signing with digital
// signatures (RFC 5280 §4.2.1.12, §4.2.1.3) and be valid, and enough of its SCTs MUST be valid SCTs of different
// trusted logs for it (RFC 6962 §3.2). Verify returns those SCTs.
func Verify(certs []*x509.Certificate, t Trust, now time.Time) ([]tbs.SCT, error) {
	if len(certs) == 0 {
		return nil, errors.New("there is no certificate to verify")
	}
	if t.MinSCTs < NoSCTs {
		return nil, fmt.Errorf("MinSCTs is %d; write a number of SCTs, or NoSCTs", t.MinSCTs)
	}
	leaf := certs[0]
	paths, err := t.paths(leaf, certs[1:], now)
	if err != nil {
		return nil, err
	}
	switch {
	case leaf.IsCA:
		return nil, errors.New("the certificate is that of a CA")
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageCodeSigning):
		return nil, errors.New("the certificate is not for code signing")
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return nil, errors.New("the certificate is not for digital signatures")
	}
	if t.MinSCTs == NoSCTs {
		return nil, nil
	}
	var good []tbs.SCT
	for _, path := range paths {
		if good, err = verifySCTs(leaf, path[1], t); err == nil {
			return good, nil
		}
	}
	return nil, err
}

// paths returns the certification paths from leaf to the roots of authorities that are trusted at the time now.
func (t Trust) paths(leaf *x509.Certificate, chain []*x509.Certificate, now time.Time) ([][]*x509.Certificate, error) {
	authorities := slices.Clone(t.Authorities)
	for _, c := range t.Chains {
		authorities = append(authorities, Authority{Chain: c})
	}
	var trusted []Authority
	ended := map[string]bool{} // issuing keys of authorities that are all outside of their validity period
	for _, a := range authorities {
		if len(a.Chain) == 0 {
			return nil, errors.New("an authority in Trust has no certificate")
		}
		if a.covers(now) {
			trusted = append(trusted, a)
		} else {
			ended[string(a.Chain[0].RawSubjectPublicKeyInfo)] = true
		}
	}
	for _, a := range trusted {
		delete(ended, string(a.Chain[0].RawSubjectPublicKeyInfo))
	}
	identity.MarkHandled(leaf)
	var good [][]*x509.Certificate
	problem := errors.New("no authority is trusted at this time")
	for _, a := range trusted {
		last := len(a.Chain) - 1
		roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(a.Chain[last])
		for _, c := range slices.Concat(a.Chain[:last], chain) {
			intermediates.AddCert(c)
		}
		found, err := leaf.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: intermediates, CurrentTime: now,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		})
		if err != nil {
			problem = err
		}
		for _, path := range found {
			if through := slices.ContainsFunc(path[1:],
				func(c *x509.Certificate) bool { return ended[string(c.RawSubjectPublicKeyInfo)] }); through {
				problem = errors.New("the authority that issued the certificate is not trusted at this time")
			} else if len(path) > 1 {
				good = append(good, path)
			}
		}
	}
	if len(good) == 0 {
		return nil, fmt.Errorf("the certificate does not chain to a trusted root: %w", problem)
	}
	return good, nil
}

func verifySCTs(leaf, issuer *x509.Certificate, t Trust) ([]tbs.SCT, error) {
	bare, raw, err := tbs.WithoutSCTList(leaf.Raw)
	if err != nil {
		return nil, err
	}
	entry := tbs.Entry{IssuerKeyHash: sha256.Sum256(issuer.RawSubjectPublicKeyInfo), TBS: bare}
	var good []tbs.SCT
	problem := errors.New("it has no further SCT")
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
	if need := max(t.MinSCTs, 1); len(good) < need {
		return nil, fmt.Errorf("the certificate has %d valid SCTs of trusted logs, but %d are required: %w",
			len(good), need, problem)
	}
	return good, nil
}

func (t Trust) verifySCT(sct tbs.SCT, entry tbs.Entry) error {
	problem := fmt.Errorf("the log %x is not trusted", sct.LogID[:8])
	for _, l := range t.Logs {
		id, err := l.ID()
		if err != nil {
			return err
		}
		if id != sct.LogID {
			continue
		}
		if at := sct.Time(); at.Before(l.NotBefore) || !l.NotAfter.IsZero() && at.After(l.NotAfter) {
			problem = fmt.Errorf("an SCT with the timestamp %s is outside of the log's validity",
				at.Format(time.RFC3339))
			continue // the same key may be listed with another period
		}
		return sct.Verify(l.Key, entry)
	}
	return problem
}

// matches checks that the certificate is for the key that was sent.
func matches(leaf *x509.Certificate, key crypto.PublicKey) error {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return err
	}
	if !bytes.Equal(spki, leaf.RawSubjectPublicKeyInfo) {
		return errors.New("the certificate is for a different key than the request")
	}
	return nil
}
