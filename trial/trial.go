// Package trial signs once with every service of an instance of Sigstore, as its clients do, and verifies the result as
// they do.
//
// A token and the addresses of the services go in; a bundle that was verified comes out, or the step that failed. The
// requests are those of released clients, over the addresses that these use. The bundle MUST be verified with nothing
// but the trusted root. Releases of mayfly are signed in the same way, with an artifact that the caller names.
package trial

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	bundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	dssepb "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekorv1 "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	rekorpb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/internal/httpclient"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/trust"
)

// Options says which services sign, and for whom.
type Options struct {
	CA    string // URL
	TSA   string // URL to which timestamp queries are sent; "": no timestamp
	Rekor string // URL of a Rekor v2; "": no log entry
	// TrustedRoot is trusted_root.json as verifiers have it.
	TrustedRoot []byte
	Token       string
	Identity    string // the subject alternative name that the certificate must have
	Issuer      string // likewise
	// Artifact is what is signed. Nil: an artifact that nobody else signs.
	Artifact []byte
	// Statement is the digest of a subject of the statement, "sha256:HEX", if Artifact is an in-toto statement, which
	// is signed in an envelope (DSSE). "": Artifact is signed as it is.
	Statement string
	// Roots are the CAs of the TLS certificates of the services. Nil: those of the system.
	Roots *x509.CertPool
	// Timeout bounds each step. 0: [DefaultTimeout].
	Timeout time.Duration
}

// DefaultTimeout bounds each step.
const DefaultTimeout = 10 * time.Second

// The steps, in their order, as [Step] names them.
const (
	StepCertificate = "certificate"
	StepTimestamp   = "timestamp"
	StepEntry       = "log entry"
	StepVerify      = "verification"
)

// Step is a step that was taken.
type Step struct {
	Name string
	Took time.Duration
}

// Result is a signature of every service.
type Result struct {
	Bundle   []byte // in JSON
	Artifact []byte // that was signed
	Verified *trust.Verified
	Steps    []Step
}

// StepError is a step that failed.
type StepError struct {
	Step string // one of the steps
	URL  string // of the service; "" for the verification
	Err  error
}

// Error says which step failed, and why.
func (e *StepError) Error() string {
	if e.URL == "" {
		return e.Step + ": " + e.Err.Error()
	}
	return fmt.Sprintf("%s (%s): %v", e.Step, e.URL, e.Err)
}

// Unwrap returns the cause.
func (e *StepError) Unwrap() error { return e.Err }

// maxAnswer is the largest answer of a service, in bytes.
const maxAnswer = 1 << 20

// Sign signs the artifact, and verifies the signature. An error is a [*StepError].
func Sign(ctx context.Context, o Options) (*Result, error) {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	s := signing{o: o, http: httpclient.New(httpclient.Options{
		Timeout: o.Timeout, Roots: o.Roots, UserAgent: version.UserAgent(),
	})}
	defer s.http.CloseIdleConnections()
	if s.artifact = o.Artifact; s.artifact == nil {
		s.artifact = fmt.Appendf(nil, "a trial of mayfly at %s: %s\n",
			time.Now().UTC().Format(time.RFC3339Nano), rand.Text())
	}
	for _, step := range []struct {
		name, url string
		skip      bool
		run       func(context.Context) error
	}{
		{StepCertificate, o.CA, false, s.certify},
		{StepTimestamp, o.TSA, o.TSA == "", s.stamp},
		{StepEntry, o.Rekor, o.Rekor == "", s.log},
		{StepVerify, "", false, s.verify},
	} {
		if step.skip {
			continue
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(ctx, o.Timeout)
		err := step.run(ctx)
		cancel()
		if err != nil {
			return nil, &StepError{step.name, step.url, err}
		}
		s.result.Steps = append(s.result.Steps, Step{step.name, time.Since(began)})
	}
	s.result.Artifact = s.artifact
	return &s.result, nil
}

// signing is a signature that is being made.
type signing struct {
	o         Options
	http      *http.Client
	artifact  []byte
	digest    [32]byte // of artifact
	signature []byte
	leaf      *x509.Certificate
	stamps    []*common.RFC3161SignedTimestamp
	entries   []*rekorv1.TransparencyLogEntry
	result    Result
}

// certify gets a certificate, and signs.
func (s *signing) certify(ctx context.Context) error {
	root, err := trust.ParseTrustedRoot(s.o.TrustedRoot)
	if err != nil {
		return err
	}
	t := root.ForClient()
	c, err := client.New(client.Options{
		URL: s.o.CA, Trust: &t, UserAgent: version.UserAgent(), Timeout: s.o.Timeout, Roots: s.o.Roots,
	})
	if err != nil {
		return err
	}
	defer c.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	got, err := c.Request(ctx, client.Request{
		Token: s.o.Token, Signer: key, Identity: s.o.Identity, Issuer: s.o.Issuer,
	})
	if err != nil {
		return errors.New(client.Explain(err))
	}
	message := s.artifact
	if s.o.Statement != "" {
		message = dsse.PAE(statementType, s.artifact)
	}
	s.leaf, s.digest = got.Leaf, sha256.Sum256(message)
	s.signature, err = key.Sign(rand.Reader, s.digest[:], crypto.SHA256)
	return err
}

// stamp gets a timestamp in the JSON form of Sigstore's timestamp authority.
func (s *signing) stamp(ctx context.Context) error {
	digest := sha256.Sum256(s.signature)
	query, err := json.Marshal(map[string]any{"artifactHash": digest[:], "hashAlgorithm": "sha256"})
	if err != nil {
		return err
	}
	answer, err := s.post(ctx, s.o.TSA, query)
	s.stamps = []*common.RFC3161SignedTimestamp{{SignedTimestamp: answer}}
	return err
}

// log writes the signature to the log of signatures.
func (s *signing) log(ctx context.Context) error {
	verifier := &rekorpb.Verifier{
		Verifier:   &rekorpb.Verifier_X509Certificate{X509Certificate: &common.X509Certificate{RawBytes: s.leaf.Raw}},
		KeyDetails: common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
	}
	// The digest of an envelope is that of what its signature covers; Rekor's own type for envelopes is deprecated.
	body, err := protojson.Marshal(&rekorpb.CreateEntryRequest{
		Spec: &rekorpb.CreateEntryRequest_HashedRekordRequestV002{
			HashedRekordRequestV002: &rekorpb.HashedRekordRequestV002{
				Digest: s.digest[:], Signature: &rekorpb.Signature{Content: s.signature, Verifier: verifier},
			},
		},
	})
	if err != nil {
		return err
	}
	answer, err := s.post(ctx, strings.TrimSuffix(s.o.Rekor, "/")+"/api/v2/log/entries", body)
	if err != nil {
		return err
	}
	entry := &rekorv1.TransparencyLogEntry{}
	s.entries = []*rekorv1.TransparencyLogEntry{entry}
	return protojson.Unmarshal(answer, entry)
}

// statementType is the media type of an in-toto statement in an envelope.
const statementType = "application/vnd.in-toto+json"

// envelope returns the statement in its envelope (DSSE).
func (s *signing) envelope() *dssepb.Envelope {
	return &dssepb.Envelope{
		PayloadType: statementType, Payload: s.artifact, Signatures: []*dssepb.Signature{{Sig: s.signature}},
	}
}

// post sends JSON, and returns the body of an answer with a 2xx status.
func (s *signing) post(ctx context.Context, url string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to the end or not used
	answer, err := httpclient.ReadBody(resp, maxAnswer)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("status %s: %s", resp.Status, strings.TrimSpace(string(answer[:min(len(answer), 500)])))
	}
	return answer, nil
}

// verify verifies the bundle.
func (s *signing) verify(context.Context) error {
	material := &bundle.VerificationMaterial{
		Content: &bundle.VerificationMaterial_Certificate{
			Certificate: &common.X509Certificate{RawBytes: s.leaf.Raw},
		},
		TlogEntries: s.entries,
	}
	if s.stamps != nil {
		material.TimestampVerificationData = &bundle.TimestampVerificationData{Rfc3161Timestamps: s.stamps}
	}
	out := &bundle.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json", VerificationMaterial: material,
	}
	expect := trust.Expectation{Identity: s.o.Identity, Issuer: s.o.Issuer, NoRekor: s.o.Rekor == ""}
	if s.o.Statement != "" {
		out.Content = &bundle.Bundle_DsseEnvelope{DsseEnvelope: s.envelope()}
		expect.Digest = s.o.Statement
	} else {
		out.Content = &bundle.Bundle_MessageSignature{MessageSignature: &common.MessageSignature{
			MessageDigest: &common.HashOutput{Algorithm: common.HashAlgorithm_SHA2_256, Digest: s.digest[:]},
			Signature:     s.signature,
		}}
		expect.Artifact = bytes.NewReader(s.artifact)
	}
	data, err := protojson.Marshal(out)
	if err != nil {
		return err
	}
	verified, err := trust.VerifyBundle(s.o.TrustedRoot, data, expect)
	if err != nil {
		return err
	}
	s.result.Bundle, s.result.Verified = data, verified
	return nil
}
