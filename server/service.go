package server

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/span"
	"github.com/mayfly-ca/mayfly/pop"
	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// service implements the API.
type service struct {
	fulciopb.UnimplementedCAServer
	*Server
}

// CreateSigningCertificate issues one certificate.
func (s service) CreateSigningCertificate(ctx context.Context,
	in *fulciopb.CreateSigningCertificateRequest,
) (*fulciopb.SigningCertificate, error) {
	return observe(ctx, s.Server, call[*fulciopb.SigningCertificate]{
		method: "CreateSigningCertificate",
		issues: true, limited: true,
		run: func(ctx context.Context, core *Core, r *record) (*fulciopb.SigningCertificate, error) {
			return s.create(ctx, core, in, r)
		},
	})
}

// create is the path of a request: verify the identity, verify the key, then issue the certificate.
func (s service) create(ctx context.Context, core *Core, in *fulciopb.CreateSigningCertificateRequest,
	r *record,
) (*fulciopb.SigningCertificate, error) {
	token := credential(ctx, in)
	d, err := s.identify(ctx, core, token)
	r.decision(d)
	span.In(ctx).Set(span.Entry, d.Entry)
	if limited := s.identityLimit.check(d); limited != nil {
		return nil, limited
	}
	r.decided = d
	if err != nil {
		return nil, err
	}
	if err := s.limitVerified(ctx, core, d); err != nil {
		return nil, err
	}
	if v := arrivalIn(ctx); v != nil && v.conn != nil {
		v.conn.proven.Store(true)
	}
	key, err := prove(ctx, core.Keys, in, pop.Proof{
		Challenge:      d.Identity.Challenge,
		ChallengeClaim: d.Identity.ChallengeClaim,
	})
	if err != nil {
		return nil, err
	}
	span.In(ctx).Set(span.Algorithm, key.Algorithm)
	r.add("key_algorithm", key.Algorithm)
	r.entry.key(key)
	if d.KeyAlgorithms != nil && !slices.Contains(d.KeyAlgorithms, key.Algorithm) {
		return nil, fault.New(fault.KeyAlgorithmNotAllowed, errors.New("the issuer entry does not allow it"),
			"algorithm", key.Algorithm)
	}
	request := ca.Request{
		Identity: &d.Identity, SPKI: key.SPKI, PublicKey: key.Public, Spend: s.spend(core, d, r),
	}
	authority, preview, chain := core.issuerFor(key)
	cert, err := s.issue(ctx, issuance{core, authority, preview, request, token, r})
	if err != nil {
		return nil, err
	}
	r.add("serial", fmt.Sprintf("%x", cert.Serial))
	return encode(cert, chain), nil
}

// credential returns the token: that of the request, or else the one in the metadata, which must occur exactly once.
// The gateway puts an Authorization header there.
func credential(ctx context.Context, in *fulciopb.CreateSigningCertificateRequest) string {
	if token := in.GetCredentials().GetOidcIdentityToken(); token != "" {
		return token
	}
	if all := metadata.ValueFromIncomingContext(ctx, tokenKey); len(all) == 1 {
		return all[0]
	}
	return ""
}

// tokenKey is the metadata key of a token.
const tokenKey = "oidcidentitytoken"

// bearer removes the scheme of an Authorization header; its name is case-insensitive (RFC 9110 §11.1). A value without
// a scheme is returned unchanged.
func bearer(header string) string {
	const scheme = "bearer "
	if len(header) >= len(scheme) && strings.EqualFold(header[:len(scheme)], scheme) {
		return strings.TrimLeft(header[len(scheme):], " ")
	}
	return header
}

// prove checks the key and the proof of possession, in whichever form they were sent.
func prove(ctx context.Context, keys *pop.Policy, in *fulciopb.CreateSigningCertificateRequest, p pop.Proof) (
	_ pop.Key, err error,
) {
	_, step := span.Start(ctx, "prove")
	defer step.Done(&err)
	if csr := in.GetCertificateSigningRequest(); len(csr) > 0 {
		return keys.VerifyCSR(csr)
	}
	request := in.GetPublicKeyRequest()
	if request.GetPublicKey().GetContent() == "" {
		return pop.Key{}, fault.New(fault.KeyMissing, nil)
	}
	p.PublicKey, p.Signature = []byte(request.GetPublicKey().GetContent()), request.GetProofOfPossession()
	return keys.VerifySignature(p)
}

// encode returns a certificate as the API encodes it: PEM blocks without a newline at the end, leaf first. rest is the
// chain above the leaf.
func encode(c *ca.Certificate, rest []string) *fulciopb.SigningCertificate {
	chain := &fulciopb.CertificateChain{Certificates: append(append(make([]string, 0, 1+len(rest)), pemOf(c.DER)),
		rest...)}
	if c.Embedded {
		return &fulciopb.SigningCertificate{Certificate: &fulciopb.SigningCertificate_SignedCertificateEmbeddedSct{
			SignedCertificateEmbeddedSct: &fulciopb.SigningCertificateEmbeddedSCT{Chain: chain},
		}}
	}
	return &fulciopb.SigningCertificate{Certificate: &fulciopb.SigningCertificate_SignedCertificateDetachedSct{
		SignedCertificateDetachedSct: &fulciopb.SigningCertificateDetachedSCT{Chain: chain},
	}}
}

// pemOf encodes a certificate as encoding/pem does (RFC 7468 §3), without the newline at the end.
func pemOf(der []byte) string {
	const (
		begin, end = "-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----"
		line       = 48 // bytes, which make 64 characters
	)
	out := make([]byte, 0, len(begin)+base64.StdEncoding.EncodedLen(len(der))+len(der)/line+1+len(end))
	out = append(out, begin...)
	for len(der) > 0 {
		n := min(line, len(der))
		out = append(base64.StdEncoding.AppendEncode(out, der[:n]), '\n')
		der = der[n:]
	}
	return string(append(out, end...))
}

// GetTrustBundle returns all chains, in PEM blocks that end in a newline.
func (s service) GetTrustBundle(ctx context.Context, _ *fulciopb.GetTrustBundleRequest) (*fulciopb.TrustBundle, error) {
	return observe(ctx, s.Server, call[*fulciopb.TrustBundle]{
		method: "GetTrustBundle",
		run: func(_ context.Context, core *Core, _ *record) (*fulciopb.TrustBundle, error) {
			out := &fulciopb.TrustBundle{}
			for _, certs := range core.bundle() {
				chain := &fulciopb.CertificateChain{}
				for _, c := range certs {
					chain.Certificates = append(chain.Certificates, pemOf(c.Raw)+"\n")
				}
				out.Chains = append(out.Chains, chain)
			}
			return out, nil
		},
	})
}

// The response headers that identify the configuration in force.
const (
	generationKey = "mayfly-config-generation"
	digestKey     = "mayfly-config-digest"
)

// GetConfiguration lists the issuers, in a stable order.
func (s service) GetConfiguration(ctx context.Context,
	_ *fulciopb.GetConfigurationRequest,
) (*fulciopb.Configuration, error) {
	return observe(ctx, s.Server, call[*fulciopb.Configuration]{
		method: "GetConfiguration",
		run: func(ctx context.Context, core *Core, _ *record) (*fulciopb.Configuration, error) {
			err := grpc.SetHeader(ctx, metadata.Pairs(generationKey, strconv.FormatUint(core.Generation, 10),
				digestKey, core.Digest))
			if err != nil {
				return nil, err
			}
			out := &fulciopb.Configuration{}
			for _, i := range core.Issuers.Issuers() {
				row := &fulciopb.OIDCIssuer{
					Issuer: &fulciopb.OIDCIssuer_IssuerUrl{IssuerUrl: i.URL}, Audience: i.Audience,
					ChallengeClaim:    i.ChallengeClaim,
					SpiffeTrustDomain: i.SPIFFETrustDomain, IssuerType: i.Type, SubjectDomain: i.SubjectDomain,
					SkipEmailVerification: i.SkipEmailVerification,
				}
				if i.Wildcard {
					row.Issuer = &fulciopb.OIDCIssuer_WildcardIssuerUrl{WildcardIssuerUrl: i.URL}
				}
				out.Issuers = append(out.Issuers, row)
			}
			return out, nil
		},
	})
}
