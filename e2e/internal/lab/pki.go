package lab

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"time"
)

// PKI is a CA made offline, as an operator would make one: root P-384, intermediate P-256 for code signing.
type PKI struct {
	ChainFile, RootFile, KeyFile string
	Chain                        []*x509.Certificate // intermediate, root
}

// PKI makes a CA in files of the lab.
func (l *Lab) PKI() PKI {
	l.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(l)
	p := l.PKIFor(key.Public())
	p.KeyFile = l.Write("pki/key.pem", encode("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key))(l)))
	return p
}

// PKIFor makes a CA whose issuing key is elsewhere: there is no key file.
func (l *Lab) PKIFor(public crypto.PublicKey) PKI {
	l.Helper()
	return l.pkiUntil("pki", public, time.Now().Add(365*24*time.Hour))
}

// PKIUntil is a CA whose chain ends at a time.
func (l *Lab) PKIUntil(end time.Time) PKI {
	l.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(l)
	p := l.pkiUntil("pki-until", key.Public(), end)
	p.KeyFile = l.Write("pki-until/key.pem", encode("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key))(l)))
	return p
}

func (l *Lab) pkiUntil(folder string, public crypto.PublicKey, end time.Time) PKI {
	l.Helper()
	rootKey := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(l)
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"e2e"}, CommonName: "e2e root"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(10 * 365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	root := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, template,
		rootKey.Public(), rootKey))(l)))(l)
	template = &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{Organization: []string{"e2e"}, CommonName: "e2e intermediate"},
		NotBefore: now.Add(-time.Hour), NotAfter: end,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	issuing := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, root,
		public, rootKey))(l)))(l)
	chain := encode("CERTIFICATE", issuing.Raw) + encode("CERTIFICATE", root.Raw)
	return PKI{
		ChainFile: l.Write(folder+"/chain.pem", chain),
		RootFile:  l.Write(folder+"/root.pem", encode("CERTIFICATE", root.Raw)),
		Chain:     []*x509.Certificate{issuing, root},
	}
}

// KeyPair is a key in two files.
type KeyPair struct{ Private, Public string }

// LogKey makes a P-256 key of a log; the private file is SEC1, as TesseraCT wants it.
func (l *Lab) LogKey(name string) KeyPair {
	l.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(l)
	return KeyPair{
		Private: l.Write(name+"/log.key.pem", encode("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(key))(l))),
		Public:  l.Write(name+"/log.pub.pem", encode("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(key.Public()))(l))),
	}
}

// Ed25519Key makes an Ed25519 key, the type with which Rekor v2 signs.
func (l *Lab) Ed25519Key(name string) KeyPair {
	l.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		l.Fatal(err)
	}
	return KeyPair{
		Private: l.Write(name+"/key.pem", encode("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(private))(l))),
		Public:  l.Write(name+"/pub.pem", encode("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(public))(l))),
	}
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// Certificates parses the PEM certificates of data.
func (l *Lab) Certificates(data string) []*x509.Certificate {
	l.Helper()
	var certs []*x509.Certificate
	for block, rest := pem.Decode([]byte(data)); block != nil; block, rest = pem.Decode(rest) {
		certs = append(certs, must(x509.ParseCertificate(block.Bytes))(l))
	}
	if len(certs) == 0 {
		l.Fatalf("no certificate in %.200q", data)
	}
	return certs
}

// parsePEM parses the first certificate of text.
func parsePEM(text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	return x509.ParseCertificate(block.Bytes)
}

// must ends the test unless err is nil: v := must(f())(l).
func must[T any](v T, err error) func(*Lab) T {
	return func(l *Lab) T {
		l.Helper()
		if err != nil {
			l.Fatal(err)
		}
		return v
	}
}

// PEM returns a block.
func PEM(kind string, der []byte) string { return encode(kind, der) }
