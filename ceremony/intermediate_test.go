package ceremony

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"io"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// countingSigner counts the signatures of a key.
type countingSigner struct {
	crypto.Signer
	calls int
}

func (s *countingSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.calls++
	return s.Signer.Sign(random, digest, opts)
}

// An intermediate has the given name, a new key, and a validity within that of its parent. The chain meets every
// requirement of a running CA.
func TestIntermediate(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	now := time.Now()
	for name, c := range map[string]struct {
		life time.Duration
		want time.Time
	}{
		"within its parent": {time.Hour, now.Add(time.Hour - backdate)},
		"cut off":           {1 << 62, p.Root.NotAfter},
	} {
		signer := &countingSigner{Signer: p.RootKey}
		key, chain, err := Intermediate(t.Context(), IntermediateOptions{
			Parents: []*x509.Certificate{p.Root}, Signer: signer, Subject: p.Chain[0].RawSubject, Life: c.life,
		}, Options{Now: now})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if signer.calls != 1 || len(chain) != 2 || !equalKeys(key.Public(), chain[0].PublicKey) ||
			!bytes.Equal(chain[0].RawSubject, p.Chain[0].RawSubject) || equalKeys(key.Public(), p.Key.Public()) {
			t.Errorf("%s: %d signatures, %d certificates", name, signer.calls, len(chain))
		}
		if d := chain[0].NotAfter.Sub(c.want); d < -2*time.Second || d > 2*time.Second {
			t.Errorf("%s: until %s, want %s", name, chain[0].NotAfter, c.want)
		}
		for _, r := range ca.Examine(chain, now, x509.ExtKeyUsageCodeSigning) {
			if len(r.Findings) > 0 && r.Level <= ca.Production {
				t.Errorf("%s: %+v", name, r)
			}
		}
	}
}

// A parent that is not allowed to sign the certificate does not sign.
func TestIntermediateRefuses(t *testing.T) {
	t.Parallel()
	p, other := pki.New(pki.Options{}), pki.New(pki.Options{})
	for name, i := range map[string]IntermediateOptions{
		"the parent is missing": {Signer: p.RootKey},
		"another key":           {Parents: []*x509.Certificate{p.Root}, Signer: other.RootKey},
		"a chain of two":        {Parents: []*x509.Certificate{p.Chain[0], other.Root}, Signer: p.Key},
		"path length 0":         {Parents: p.Chain, Signer: p.Key},
		"no life":               {Parents: []*x509.Certificate{p.Root}, Signer: p.RootKey, Life: -time.Hour},
		"the parent's name":     {Parents: []*x509.Certificate{p.Root}, Signer: p.RootKey, Subject: p.Root.RawSubject},
		"a name that is not":    {Parents: []*x509.Certificate{p.Root}, Signer: p.RootKey, Subject: []byte("name")},
		"an expired validity":   {Parents: []*x509.Certificate{p.Root}, Signer: p.RootKey, Life: time.Second},
	} {
		if i.Subject == nil {
			i.Subject = p.Chain[0].RawSubject
		}
		if i.Life == 0 {
			i.Life = time.Hour
		}
		signer := &countingSigner{Signer: i.Signer}
		i.Signer = signer
		if _, _, err := Intermediate(t.Context(), i, Options{}); err == nil || signer.calls > 0 {
			t.Errorf("%s: %v after %d signatures", name, err, signer.calls)
		}
	}
}
