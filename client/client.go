// Package client requests certificates from a CA, over REST or gRPC.
//
// It MUST NOT return a certificate that it has not verified: it is for the key that was sent, names the identity of the
// token, chains to a trusted root, and has SCTs of trusted logs. Callers can turn these checks off
// ([Options.SkipVerify], [NoSCTs]). A token MUST NOT be part of an error.
package client

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/tbs"
)

// maxAnswer is the largest response that is read, in bytes.
const maxAnswer = 1 << 20

// Options are the options of [New].
type Options struct {
	URL  string // of the CA: https://HOST or http://HOST, over gRPC also HOST:PORT
	GRPC bool   // use gRPC; URL then names the gRPC port
	// Trust verifies certificates. Nil is an error unless SkipVerify is set.
	Trust *Trust
	// SkipVerify accepts certificates of any issuer with any identity. The certificate must still be for the key that
	// was sent.
	SkipVerify bool
	UserAgent  string
	Timeout    time.Duration    // of one call; 0 is 30 s
	HTTPClient *http.Client     // for REST; nil: a new one
	Roots      *x509.CertPool   // that the TLS certificate of the CA must chain to; nil: those of the system
	Now        func() time.Time // nil: time.Now
}

// Client talks to one CA. It is safe for concurrent use.
type Client struct {
	o   Options
	api transport
}

// transport is one of the two ways to the CA.
type transport interface {
	create(ctx context.Context, in *fulciopb.CreateSigningCertificateRequest) (*fulciopb.SigningCertificate, error)
	bundle(ctx context.Context) (*fulciopb.TrustBundle, error)
	configuration(ctx context.Context) (*fulciopb.Configuration, error)
	close()
}

// New returns a client. It opens no connection yet.
func New(o Options) (*Client, error) {
	u, err := parseURL(o)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" {
		return nil, fmt.Errorf("%q is not the URL of a CA; write https://HOST or http://HOST:PORT", o.URL)
	}
	if o.Trust == nil && !o.SkipVerify {
		return nil, errors.New("Options.Trust is nil, so that no certificate can be verified; set Trust, or SkipVerify")
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Client{o: o}
	if o.GRPC {
		c.api, err = newGRPC(u, o)
		return c, err
	}
	c.api = newREST(u, o)
	return c, nil
}

// parseURL parses the URL of the CA. With gRPC, HOST:PORT without a scheme selects TLS, or plain text on loopback.
func parseURL(o Options) (*url.URL, error) {
	if !o.GRPC || strings.Contains(o.URL, "://") {
		return url.Parse(o.URL)
	}
	host, _, err := net.SplitHostPort(o.URL)
	if err != nil {
		return nil, err
	}
	scheme := "https"
	if hostname.IsLoopback(host) {
		scheme = "http"
	}
	return url.Parse(scheme + "://" + o.URL)
}

// Close closes the connections.
func (c *Client) Close() { c.api.close() }

// Request is a request for a certificate. Either Signer or CSRPEM is set.
type Request struct {
	Token  string        // ID token
	Signer crypto.Signer // the key to certify
	CSR    bool          // prove possession with a generated CSR instead of a signed challenge
	CSRPEM []byte        // a PKCS#10 request in PEM, signed by its key

	// Identity and Issuer are the expected values in the certificate. "" expects the values of the token. They are
	// needed where a CA derives the identity from claims in a way that this package does not know.
	Identity, Issuer string
}

// Certificate is an issued certificate.
type Certificate struct {
	Leaf     *x509.Certificate
	Chain    []*x509.Certificate // without leaf: issuing certificate first, root last
	Identity identity.Identity
	SCTs     []tbs.SCT // the verified ones
}

// PEM returns leaf and chain.
func (c *Certificate) PEM() []byte {
	var out []byte
	for _, one := range append([]*x509.Certificate{c.Leaf}, c.Chain...) {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one.Raw})...)
	}
	return out
}

// Request requests a certificate and verifies it. A refusal by the server is an [Error].
func (c *Client) Request(ctx context.Context, r Request) (*Certificate, error) {
	in, key, err := r.message()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	out, err := c.api.create(ctx, in)
	if err != nil {
		return nil, err
	}
	chain := out.GetSignedCertificateEmbeddedSct().GetChain()
	if chain == nil {
		chain = out.GetSignedCertificateDetachedSct().GetChain()
	}
	certs, err := parseChain(chain)
	if err != nil {
		return nil, fmt.Errorf("the server's answer: %w", err)
	}
	got := &Certificate{Leaf: certs[0], Chain: certs[1:]}
	if err := matches(got.Leaf, key); err != nil {
		return nil, err
	}
	if c.o.Trust != nil {
		if got.SCTs, err = Verify(certs, *c.o.Trust, c.o.Now()); err != nil {
			return nil, err
		}
	}
	if got.Identity, err = identity.Parse(got.Leaf); err != nil {
		return nil, fmt.Errorf("the certificate's identity: %w", err)
	}
	if c.o.Trust != nil || r.Identity != "" || r.Issuer != "" {
		if err := r.names(got.Identity); err != nil {
			return nil, err
		}
	}
	return got, nil
}

// message builds the request message and returns the key that the certificate must contain.
func (r Request) message() (*fulciopb.CreateSigningCertificateRequest, crypto.PublicKey, error) {
	in := &fulciopb.CreateSigningCertificateRequest{Credentials: &fulciopb.Credentials{
		Credentials: &fulciopb.Credentials_OidcIdentityToken{OidcIdentityToken: r.Token},
	}}
	csr := r.CSRPEM
	switch {
	case len(csr) > 0:
	case r.Signer == nil:
		return nil, nil, errors.New("no key to certify")
	case r.CSR:
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, r.Signer)
		if err != nil {
			return nil, nil, err
		}
		csr = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	default:
		return r.challenged(in)
	}
	block, err := pemfile.Only(csr, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
	if err != nil {
		return nil, nil, fmt.Errorf("the certificate signing request: %w", err)
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("the certificate signing request: %w", err)
	}
	in.Key = &fulciopb.CreateSigningCertificateRequest_CertificateSigningRequest{CertificateSigningRequest: csr}
	return in, parsed.PublicKey, nil
}

// challenged proves possession with a signature over the token's e-mail address or, if it has none, its subject.
func (r Request) challenged(in *fulciopb.CreateSigningCertificateRequest) (*fulciopb.CreateSigningCertificateRequest,
	crypto.PublicKey, error,
) {
	challenge, err := challengeOf(r.Token)
	if err != nil {
		return nil, nil, err
	}
	proof, err := sign(r.Signer, []byte(challenge))
	if err != nil {
		return nil, nil, fmt.Errorf("prove possession of the key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(r.Signer.Public())
	if err != nil {
		return nil, nil, err
	}
	in.Key = &fulciopb.CreateSigningCertificateRequest_PublicKeyRequest{PublicKeyRequest: &fulciopb.PublicKeyRequest{
		PublicKey: &fulciopb.PublicKey{Content: string(pem.EncodeToMemory(&pem.Block{
			Type:  "PUBLIC KEY",
			Bytes: spki,
		}))},
		ProofOfPossession: proof,
	}}
	return in, r.Signer.Public(), nil
}

// challengeOf reads the challenge from the token, which the server verifies.
func challengeOf(token string) (string, error) {
	c, err := readClaims(token)
	if err != nil {
		return "", err
	}
	for _, name := range []string{"email", "sub"} {
		if value := c.text(name); value != "" {
			return value, nil
		}
	}
	return "", errors.New("the identity token has neither email nor sub")
}

// sign signs in the form that the CA expects for the type of key: ECDSA with the hash that matches the curve, RSA PKCS
// #1 v1.5 with SHA-256, pure Ed25519, or pure ML-DSA.
func sign(s crypto.Signer, message []byte) ([]byte, error) {
	hash := crypto.SHA256
	switch k := s.Public().(type) {
	case ed25519.PublicKey, *mldsa.PublicKey:
		return s.Sign(rand.Reader, message, crypto.Hash(0))
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P384():
			hash = crypto.SHA384
		case elliptic.P521():
			hash = crypto.SHA512
		}
	case *rsa.PublicKey:
	default:
		return nil, fmt.Errorf("keys of type %T are not supported", k)
	}
	h := hash.New()
	h.Write(message)
	return s.Sign(rand.Reader, h.Sum(nil), hash)
}

func parseChain(chain *fulciopb.CertificateChain) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for i, text := range chain.GetCertificates() {
		block, err := pemfile.Only([]byte(text), "CERTIFICATE")
		if err != nil {
			return nil, fmt.Errorf("certificate %d is not PEM: %w", i+1, err)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("the response contains no certificate")
	}
	return out, nil
}

// TrustBundle returns the server's chains, the active one first. They are as trustworthy as the connection: an attacker
// on the network can replace them unless the connection is authenticated.
func (c *Client) TrustBundle(ctx context.Context) ([][]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	out, err := c.api.bundle(ctx)
	if err != nil {
		return nil, err
	}
	var chains [][]*x509.Certificate
	for _, chain := range out.GetChains() {
		certs, err := parseChain(chain)
		if err != nil {
			return nil, fmt.Errorf("the server's answer: %w", err)
		}
		chains = append(chains, certs)
	}
	return chains, nil
}

// Issuer is an identity provider that the server accepts.
type Issuer struct {
	URL            string // the issuer URL, or a pattern if Wildcard is set
	Wildcard       bool
	Audience       string
	ChallengeClaim string
	Type           string
}

// Configuration returns the identity providers that the server accepts.
func (c *Client) Configuration(ctx context.Context) ([]Issuer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	out, err := c.api.configuration(ctx)
	if err != nil {
		return nil, err
	}
	var all []Issuer
	for _, i := range out.GetIssuers() {
		one := Issuer{
			URL: i.GetIssuerUrl(), Audience: i.GetAudience(), ChallengeClaim: i.GetChallengeClaim(),
			Type: i.GetIssuerType(),
		}
		if pattern := i.GetWildcardIssuerUrl(); pattern != "" {
			one.URL, one.Wildcard = pattern, true
		}
		all = append(all, one)
	}
	return all, nil
}
