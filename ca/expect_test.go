package ca_test

import (
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// A8: 158 bits of a serial number are random. Of 64 serials, no bit but the two fixed ones is always 0 or always 1 (the
// odds of a false alarm are 2^-55).
func TestSerialBits(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	a, err := ca.New(ca.Options{Chain: p.Chain, Signer: p.Key})
	if err != nil {
		t.Fatal(err)
	}
	all := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 160), big.NewInt(1))
	and, or := new(big.Int).Set(all), new(big.Int)
	for range 64 {
		got, err := a.Issue(t.Context(), request(t, alice()))
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Serial) != 20 {
			t.Fatalf("%d octets", len(got.Serial))
		}
		n := new(big.Int).SetBytes(got.Serial)
		and.And(and, n)
		or.Or(or, n)
	}
	fixed := new(big.Int).Lsh(big.NewInt(1), 158)
	free := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 159), big.NewInt(1))
	if and.Cmp(fixed) != 0 || or.Cmp(free) != 0 {
		t.Errorf("always 1: %x, ever 1: %x", and, or)
	}
}

// A5: the notBefore of a certificate is earlier than now by the backdate of the settings.
func TestBackdate(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Second)
	p := pki.New(pki.Options{Now: now})
	for _, backdate := range []time.Duration{0, time.Second, 30 * time.Second, ca.MaxBackdate} {
		a, err := ca.New(ca.Options{
			Chain: p.Chain, Signer: p.Key, Backdate: backdate,
			Now: func() time.Time { return now },
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err := a.Issue(t.Context(), request(t, alice()))
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(got.DER)
		if err != nil {
			t.Fatal(err)
		}
		if want := now.Add(-backdate); !got.NotBefore.Equal(want) || !c.NotBefore.Equal(want) ||
			!c.NotAfter.Equal(want.Add(ca.Validity)) {
			t.Errorf("backdate %s: %s to %s at %s", backdate, c.NotBefore, c.NotAfter, now)
		}
	}
}
