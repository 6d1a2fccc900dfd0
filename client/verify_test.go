package client_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// logKey is the key of a Certificate Transparency log.
type logKey struct{ *ecdsa.PrivateKey }

func newLogKey() logKey { return logKey{pki.NewKey(pki.P256).(*ecdsa.PrivateKey)} }

func (k logKey) log() loglist.Log { return loglist.Log{Key: k.Public()} }

// sct returns an SCT for an entry.
func (k logKey) sct(t *testing.T, e tbs.Entry, at time.Time) tbs.SCT {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	must(t, err)
	s := tbs.SCT{LogID: sha256.Sum256(spki), Timestamp: uint64(at.UnixMilli()), Hash: 4, Sig: 3}
	input, err := tbs.SignatureInput(s.Timestamp, nil, e)
	must(t, err)
	digest := sha256.Sum256(input)
	s.Signature, err = ecdsa.SignASN1(rand.Reader, k.PrivateKey, digest[:])
	must(t, err)
	return s
}

// issued describes a certificate issued under p; change modifies its template, and scts builds its SCT list from the
// entry.
type issued struct {
	p      *pki.PKI
	key    crypto.PublicKey // nil: a new one
	change func(*x509.Certificate)
	scts   func(tbs.Entry) []tbs.SCT
}

var serials = new(big.Int).Lsh(big.NewInt(1), 100)

func (i issued) certificate(t *testing.T) *x509.Certificate {
	t.Helper()
	n, err := rand.Int(rand.Reader, serials)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: n, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(9 * time.Minute),
		EmailAddresses: []string{"alice@example.com"},
		KeyUsage:       x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	if i.change != nil {
		i.change(template)
	}
	key := i.key
	if key == nil {
		key = pki.NewKey(pki.P256).Public()
	}
	certify := func() *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, i.p.Chain[0], key, i.p.Key)
		must(t, err)
		c, err := x509.ParseCertificate(der)
		must(t, err)
		return c
	}
	bare := certify()
	if i.scts == nil {
		return bare
	}
	unlisted, _, err := tbs.WithoutSCTList(bare.Raw)
	must(t, err)
	var list [][]byte
	for _, s := range i.scts(tbs.Entry{
		IssuerKeyHash: sha256.Sum256(i.p.Chain[0].RawSubjectPublicKeyInfo),
		TBS:           unlisted,
	}) {
		data, err := s.Marshal()
		must(t, err)
		list = append(list, data)
	}
	value, err := tbs.MarshalSCTList(list)
	must(t, err)
	value, err = asn1.Marshal(value) // an OCTET STRING (RFC 6962 §3.3)
	must(t, err)
	template.ExtraExtensions = append(template.ExtraExtensions,
		pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: value})
	return certify()
}

// B1: SCTs count only if they are from different trusted logs, cover this certificate, and lie within the log's
// validity period; the zero value of Trust requires one.
func TestVerifySCTs(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	one, two, unknown := newLogKey(), newLogKey(), newLogKey()
	now := time.Now()
	by := func(keys ...logKey) func(tbs.Entry) []tbs.SCT {
		return func(e tbs.Entry) (out []tbs.SCT) {
			for _, k := range keys {
				out = append(out, k.sct(t, e, now))
			}
			return out
		}
	}
	var ofAnother tbs.Entry
	issued{p: p, scts: func(e tbs.Entry) []tbs.SCT { ofAnother = e; return by(one)(e) }}.certificate(t)
	otherIssuer := pki.New(pki.Options{})
	for name, c := range map[string]struct {
		scts  func(tbs.Entry) []tbs.SCT
		trust client.Trust
		want  string
	}{
		"good":                  {by(one), client.Trust{}, ""},
		"good, two":             {by(one, two), client.Trust{MinSCTs: 2}, ""},
		"one of an unknown log": {by(unknown, one), client.Trust{}, ""},
		"none":                  {nil, client.Trust{}, "it has no further SCT"},
		"none, not demanded":    {nil, client.Trust{MinSCTs: client.NoSCTs}, ""},
		"a negative number":     {by(one, two), client.Trust{MinSCTs: -2}, "MinSCTs is -2"},
		"of an unknown log":     {by(unknown), client.Trust{}, "is not trusted"},
		"one log twice": {
			by(one, one),
			client.Trust{MinSCTs: 2},
			"has 1 valid SCTs of trusted logs, but 2 are required",
		},
		"one log twice, both": {by(one, two, one), client.Trust{MinSCTs: 3}, "has 2 valid SCTs"},
		"another leaf's": {
			func(tbs.Entry) []tbs.SCT { return by(one)(ofAnother) },
			client.Trust{},
			"does not verify",
		},
		"another issuer's": {func(e tbs.Entry) []tbs.SCT {
			e.IssuerKeyHash = sha256.Sum256(otherIssuer.Chain[0].RawSubjectPublicKeyInfo)
			return by(one)(e)
		}, client.Trust{}, "does not verify"},
		"a flipped bit": {func(e tbs.Entry) []tbs.SCT {
			s := by(one)(e)
			s[0].Signature[len(s[0].Signature)-1] ^= 1
			return s
		}, client.Trust{}, "does not verify"},
		"another time": {
			func(e tbs.Entry) []tbs.SCT { s := by(one)(e); s[0].Timestamp++; return s },
			client.Trust{},
			"does not verify",
		},
		"another log's name": {func(e tbs.Entry) []tbs.SCT {
			s := append(by(unknown)(e), by(one)(e)...)
			s[0].LogID = s[1].LogID
			return s[:1]
		}, client.Trust{}, "does not verify"},
		"before its log": {by(one), client.Trust{Logs: []loglist.Log{{
			Key:    one.Public(),
			Window: loglist.Window{NotBefore: now.Add(time.Hour)},
		}}}, "outside of the log's validity"},
		"after its log": {by(one), client.Trust{Logs: []loglist.Log{{
			Key:    one.Public(),
			Window: loglist.Window{NotAfter: now.Add(-time.Hour)},
		}}}, "outside of the log's validity"},
		"a key in two periods": {by(one), client.Trust{Logs: []loglist.Log{
			{Key: one.Public(), Window: loglist.Window{NotAfter: now.Add(-time.Hour)}},
			{Key: one.Public(), Window: loglist.Window{NotBefore: now.Add(-time.Hour)}},
		}}, ""},
	} {
		c.trust.Chains = [][]*x509.Certificate{p.Chain}
		if c.trust.Logs == nil {
			c.trust.Logs = []loglist.Log{one.log(), two.log()}
		}
		leaf := issued{p: p, scts: c.scts}.certificate(t)
		scts, err := client.Verify([]*x509.Certificate{leaf}, c.trust, now)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
		if need := max(c.trust.MinSCTs, 1); err == nil && c.trust.MinSCTs != client.NoSCTs && len(scts) < need {
			t.Errorf("%s: %d SCTs", name, len(scts))
		}
	}
}

// The certificate must be for code signing and valid now.
func TestVerifyUsage(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	trust := client.Trust{Chains: [][]*x509.Certificate{p.Chain}, MinSCTs: client.NoSCTs}
	for name, c := range map[string]struct {
		change func(*x509.Certificate)
		want   string
	}{
		"good": {nil, ""},
		"TLS server": {
			func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
			"incompatible key usage",
		},
		"no usage": {func(c *x509.Certificate) { c.ExtKeyUsage = nil }, "not for code signing"},
		"any usage": {
			func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
			"not for code signing",
		},
		"no signatures": {
			func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment },
			"not for digital signatures",
		},
		"expired":       {func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, "expired"},
		"not yet valid": {func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, "not yet valid"},
		"a CA":          {func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, ""},
		"precertificate": {func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{
				Id:       asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3},
				Critical: true, Value: asn1.NullBytes,
			}}
		}, "unhandled critical extension"},
	} {
		leaf := issued{p: p, change: c.change}.certificate(t)
		_, err := client.Verify([]*x509.Certificate{leaf}, trust, time.Now())
		if name == "a CA" {
			if err == nil {
				t.Error("the certificate of a CA verifies")
			}
			continue
		}
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	if _, err := client.Verify(nil, trust, time.Now()); err == nil {
		t.Error("no certificate verifies")
	}
	if _, err := client.Verify([]*x509.Certificate{issued{p: p}.certificate(t)}, client.Trust{MinSCTs: client.NoSCTs},
		time.Now()); err == nil {
		t.Error("a trust without an authority verifies")
	}
}

// An authority is trusted within its period only, even if the response contains its certificates and another authority
// has the same root.
func TestVerifyAuthorityTimes(t *testing.T) {
	t.Parallel()
	ended := pki.New(pki.Options{})
	root := ended.Chain[len(ended.Chain)-1]
	active := pki.New(pki.Options{})
	now := time.Now()
	leaf := issued{p: ended}.certificate(t)
	bounded := func(from, to time.Duration) client.Authority {
		a := client.Authority{Chain: ended.Chain}
		if from != 0 {
			a.From = now.Add(from)
		}
		if to != 0 {
			a.To = now.Add(to)
		}
		return a
	}
	for name, c := range map[string]struct {
		authorities []client.Authority
		good        bool
	}{
		"without bounds": {[]client.Authority{bounded(0, 0)}, true},
		"within":         {[]client.Authority{bounded(-time.Hour, time.Hour)}, true},
		"at both bounds": {[]client.Authority{{Chain: ended.Chain, From: now, To: now}}, true},
		"ended":          {[]client.Authority{bounded(-48*time.Hour, -24*time.Hour)}, false},
		"not begun":      {[]client.Authority{bounded(time.Hour, 0)}, false},
		"ended and renewed": {[]client.Authority{
			bounded(-48*time.Hour, -24*time.Hour),
			bounded(-time.Hour, 0),
		}, true},
		"ended, another one active": {[]client.Authority{bounded(0, -time.Hour), {Chain: active.Chain}}, false},
		"ended, its root alone active": {[]client.Authority{
			bounded(0, -time.Hour),
			{Chain: []*x509.Certificate{root}},
		}, false},
		"the root alone":                {[]client.Authority{{Chain: []*x509.Certificate{root}}}, true},
		"an authority without anything": {[]client.Authority{{}, bounded(0, 0)}, false},
	} {
		certs := append([]*x509.Certificate{leaf}, ended.Chain...)
		_, err := client.Verify(certs, client.Trust{Authorities: c.authorities, MinSCTs: client.NoSCTs}, now)
		if (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var someTime = time.Unix(0, 0)
