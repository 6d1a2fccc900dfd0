package ceremony

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// RequestOptions describe a certificate signing request (RFC 2986) for the key of a CA.
type RequestOptions struct {
	Subject Subject
	Out     string // the path of the request
}

// NewRequest makes a certificate signing request for an issuing certificate. The request has the basic constraints with
// path length 0, the key usage and the extended key usage that a parent should certify. The result has the file of the
// key, if it is new, and the file of the request.
func NewRequest(k *Key, r RequestOptions, o Options) (*Result, error) {
	o.defaults()
	subject, err := r.Subject.der()
	if err != nil {
		return nil, err
	}
	extensions, err := requested()
	if err != nil {
		return nil, err
	}
	out := &Result{Keys: []KeyStatement{k.Statement}, dry: o.DryRun}
	if k.output != nil {
		out.Outputs = append(out.Outputs, *k.output)
	}
	file := Output{Path: r.Out, What: "certificate signing request", Mode: 0o644}
	if err := absent(pathsOf(append(out.Outputs, file))); err != nil {
		return nil, err
	}
	if !o.DryRun {
		algorithm, err := algorithmOf(k.Signer.Public())
		if err != nil {
			return nil, err
		}
		der, err := x509.CreateCertificateRequest(o.Rand, &x509.CertificateRequest{
			RawSubject: subject, ExtraExtensions: extensions, SignatureAlgorithm: algorithm,
		}, k.Signer)
		if err != nil {
			return nil, fmt.Errorf("sign the request: %w", err)
		}
		file.data = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		if _, err := ParseRequest(file.data); err != nil {
			return nil, fmt.Errorf("the request that was made: %w", err)
		}
	}
	out.Outputs = append(out.Outputs, file)
	return out, nil
}

// requested returns the extensions of a request.
func requested() ([]pkix.Extension, error) {
	basic, err := asn1.Marshal(struct {
		IsCA       bool
		PathLength int
	}{true, 0})
	if err != nil {
		return nil, err
	}
	usage, err := asn1.Marshal(asn1.BitString{Bytes: []byte{0x06}, BitLength: 7}) // keyCertSign, cRLSign
	if err != nil {
		return nil, err
	}
	purpose, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 3}}) // codeSigning
	if err != nil {
		return nil, err
	}
	return []pkix.Extension{
		{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: basic},
		{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: usage},
		{Id: oidExtKeyUsage, Value: purpose},
	}, nil
}

// ParseRequest reads one certificate signing request in PEM and verifies its signature, which proves possession of the
// key.
func ParseRequest(data []byte) (*x509.CertificateRequest, error) {
	block, err := pemfile.Only(data, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
	if err != nil {
		return nil, err
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the request cannot be parsed: %w", err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fault.Cure(fmt.Errorf("the request is not signed by its key: %w", err),
			"create the request again")
	}
	return r, nil
}

// SignOptions describe a certificate that a parent signs.
type SignOptions struct {
	// Request is the certificate signing request. The certificate gets its name and its key, but not its extensions.
	Request *x509.CertificateRequest
	// Certificate is the CA certificate to cross-sign, instead of a request. The new certificate gets its name, key,
	// key identifier and path length.
	Certificate *x509.Certificate
	// Parents has the certificate of the signing key first, its root last.
	Parents []*x509.Certificate
	Validity
	PathLength int // of the new certificate; not used for cross-signing
	// Inputs are the files of the request or certificate and of the parents, for the transcript.
	Inputs []Input
	// Out is the path of the chain, and Transcript the path of the transcript.
	Out, Transcript string
	SignTranscript  bool
}

// Sign makes a certificate below the parents. The key of the first parent is k.
func Sign(ctx context.Context, k *Key, s SignOptions, o Options) (*Result, error) {
	o.defaults()
	paths := []string{s.Transcript, s.Out}
	if s.SignTranscript {
		paths = append(paths, s.Transcript+SignatureSuffix)
	}
	if err := absent(paths); err != nil {
		return nil, err
	}
	if err := checkParents(s.Parents); err != nil {
		return nil, err
	}
	if !equalKeys(k.Signer.Public(), s.Parents[0].PublicKey) {
		return nil, fmt.Errorf("the key is not the key of the parent (%s); name the key that belongs to the parent",
			s.Parents[0].Subject)
	}
	r := request{profile: Profile{Role: RoleIntermediate, PathLength: s.PathLength}, parents: s.Parents}
	r.profile.NotBefore, r.profile.NotAfter = s.between(o.Now, DefaultIssuingValidity)
	// The default start is moved into the validity of the parent. A requested start must be within it.
	if begin := s.Parents[0].NotBefore; s.NotBefore.IsZero() && !begin.After(o.Now) &&
		r.profile.NotBefore.Before(begin) {
		s.NotBefore = begin
		r.profile.NotBefore, r.profile.NotAfter = s.between(o.Now, DefaultIssuingValidity)
	}
	operation := "sign"
	switch c := s.Certificate; {
	case c != nil && !c.IsCA:
		return nil, fmt.Errorf("%s is not a CA certificate; only CA certificates are cross-signed", c.Subject)
	case c != nil:
		operation = "cross-sign"
		r.key, r.profile.Subject = c.PublicKey, c.RawSubject
		r.profile.SubjectKeyID, r.profile.PathLength = c.SubjectKeyId, max(c.MaxPathLen, 0)
		if c.MaxPathLen < 0 {
			r.profile.PathLength = s.PathLength
		}
		// not after the end of the existing certificate or of the new parent
		r.profile.NotAfter = earliest(r.profile.NotAfter, c.NotAfter, s.Parents[0].NotAfter)
	default:
		r.key, r.profile.Subject = s.Request.PublicKey, s.Request.RawSubject
	}
	// the default is shortened to the parent's validity; a requested validity must fit
	if s.For == 0 && s.Certificate == nil {
		r.profile.NotAfter = earliest(r.profile.NotAfter, s.Parents[0].NotAfter)
	}
	m := maker{o: o, ctx: ctx, signer: k.Signer}
	c, err := m.make(r)
	if err != nil {
		return nil, err
	}
	out := &Result{
		Certificates: []*x509.Certificate{c}, Chain: append([]*x509.Certificate{c}, s.Parents...),
		Keys: []KeyStatement{k.Statement}, Warnings: m.warnings, dry: o.DryRun,
	}
	t := &Transcript{Operation: operation, Keys: out.Keys, Inputs: s.Inputs, Certificates: m.entries}
	for _, p := range s.Parents {
		t.Parents = append(t.Parents, string(encode(p)))
	}
	return out, m.finish(out, finishing{
		transcript: t, path: s.Transcript, sign: s.SignTranscript, signer: k.Signer,
		last: Output{
			Path: s.Out, What: "chain: new certificate, then its parents", Mode: 0o644,
			data: encode(out.Chain...),
		},
	})
}

// ImportOptions describe a certificate that another CA issued.
type ImportOptions struct {
	Request *x509.CertificateRequest // that the certificate was issued for
	Chain   []*x509.Certificate      // the new certificate, then its parents, the root last
	Out     string                   // the path of the chain
}

// Import checks a certificate that another CA issued for a request, and returns a result with the chain.
func Import(i ImportOptions, o Options) (*Result, error) {
	o.defaults()
	if err := absent([]string{i.Out}); err != nil {
		return nil, err
	}
	request, chain := i.Request, i.Chain
	if len(chain) == 0 {
		return nil, errors.New("the certificate is missing; name the file that the parent CA returned")
	}
	c := chain[0]
	if !equalKeys(c.PublicKey, request.PublicKey) {
		return nil,
			fmt.Errorf("the certificate (%s) is not for the key of the request; name the certificate that "+
				"the parent issued for it",
				c.Subject)
	}
	r := &Result{Certificates: chain[:1], Chain: chain, dry: o.DryRun}
	if !bytes.Equal(c.RawSubject, request.RawSubject) {
		r.Warnings = append(r.Warnings, fmt.Sprintf("the parent changed the subject from %s to %s",
			request.Subject, c.Subject))
	}
	var problems []string
	for _, q := range ca.Examine(chain, o.Now, x509.ExtKeyUsageCodeSigning) {
		for _, f := range q.Findings {
			if q.Level <= ca.Production {
				problems = append(problems, f.Problem+"; "+f.Fix)
			} else {
				r.Warnings = append(r.Warnings, f.Problem+"; "+f.Fix)
			}
		}
	}
	if len(problems) > 0 {
		return nil, errors.New(strings.Join(problems, "\n"))
	}
	r.Outputs = []Output{{
		Path: i.Out, What: "chain: issuing certificate first, root last", Mode: 0o644,
		data: encode(chain...),
	}}
	return r, nil
}

// checkParents checks that parents are a chain that ends with a root.
func checkParents(parents []*x509.Certificate) error {
	if len(parents) == 0 {
		return errors.New("the parent is missing; name the certificate of the signing key, followed by its own parents")
	}
	_, err := ca.ParseChain(encode(parents...))
	return err
}

// FileInput describes a file that a ceremony read, for its transcript.
func FileInput(path string, data []byte) Input {
	sum := sha256.Sum256(data)
	return Input{Path: filepath.ToSlash(path), SHA256: hex.EncodeToString(sum[:]), Content: string(data)}
}

func earliest(times ...time.Time) time.Time {
	return slices.MinFunc(times, time.Time.Compare)
}

func latest(times ...time.Time) time.Time {
	return slices.MaxFunc(times, time.Time.Compare)
}
