package main

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	v1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	dssepb "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/client/write"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// logged makes a bundle as clients do: with a certificate of the CA and an entry in its log of signatures. envelope
// says that the message is the payload of a DSSE envelope.
func logged(t *testing.T, s *process.Server, token string, message []byte, envelope bool) *bundle.Bundle {
	t.Helper()
	c, err := client.New(client.Options{URL: s.URL(), SkipVerify: true})
	fatal(t, err)
	defer c.Close()
	key := pki.NewKey(pki.P256)
	issued, err := c.Request(t.Context(), client.Request{Token: token, Signer: key})
	fatal(t, err)
	signed := message
	if envelope {
		signed = dsse.PAE("application/vnd.in-toto+json", message)
	}
	digest := sha256.Sum256(signed)
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	fatal(t, err)
	writer, err := write.NewWriter(s.URL())
	fatal(t, err)
	certificate := &v1.X509Certificate{RawBytes: issued.Leaf.Raw}
	entry, err := writer.Add(t.Context(), &pb.HashedRekordRequestV002{
		Digest: digest[:], Signature: &pb.Signature{Content: sig, Verifier: &pb.Verifier{
			Verifier:   &pb.Verifier_X509Certificate{X509Certificate: certificate},
			KeyDetails: v1.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
		}},
	})
	fatal(t, err)
	made := &bundlepb.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: &bundlepb.VerificationMaterial{
			Content:     &bundlepb.VerificationMaterial_Certificate{Certificate: certificate},
			TlogEntries: []*rekorpb.TransparencyLogEntry{entry},
		},
		Content: &bundlepb.Bundle_MessageSignature{MessageSignature: &v1.MessageSignature{
			MessageDigest: &v1.HashOutput{Algorithm: v1.HashAlgorithm_SHA2_256, Digest: digest[:]}, Signature: sig,
		}},
	}
	if envelope {
		made.Content = &bundlepb.Bundle_DsseEnvelope{DsseEnvelope: &dssepb.Envelope{
			Payload: message, PayloadType: "application/vnd.in-toto+json", Signatures: []*dssepb.Signature{{Sig: sig}},
		}}
	}
	b, err := bundle.NewBundle(made)
	fatal(t, err)
	return b
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A client signs with a certificate of the CA and logs the signature in the log of the same process, and a verifier
// with the exported trusted root accepts the bundle, also after a kill. Only signatures of certificates of this CA are
// logged. The journal has each decision.
func TestRekor(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{
		PKI: pki.New(pki.Options{}), Issuer: provider.URL(), Embedded: true, Admin: true,
		More: "rekor: {dir: rekor, origin: 127.0.0.1}\naudit: {file: journal.jsonl}\n",
	})
	run := func(args ...string) {
		t.Helper()
		if out, err := process.Mayfly(s.Dir, args...); err != nil {
			t.Fatalf("mayfly %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("trust", "export", "--config", "mayfly.yaml", "--out", "trust", "--url", s.URL())
	verifies := func(b *bundle.Bundle, artifact string) {
		t.Helper()
		trusted, err := root.NewTrustedRootFromPath(filepath.Join(s.Dir, "trust", "trusted_root.json"))
		fatal(t, err)
		v, err := verify.NewVerifier(trusted, verify.WithSignedCertificateTimestamps(1), verify.WithTransparencyLog(1),
			verify.WithCurrentTime())
		fatal(t, err)
		digest := sha256.Sum256([]byte(artifact))
		_, err = v.Verify(b, verify.NewPolicy(verify.WithArtifactDigest("sha256", digest[:]),
			verify.WithoutIdentitiesUnsafe()))
		if err != nil {
			t.Errorf("%s: %v", artifact, err)
		}
	}
	blob := logged(t, s, provider.Token(nil), []byte("first"), false)
	verifies(blob, "first")
	digest := sha256.Sum256([]byte("second"))
	statement, err := json.Marshal(map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://example.com/p",
		"predicate": map[string]any{},
		"subject": []any{map[string]any{
			"name":   "second",
			"digest": map[string]any{"sha256": hex.EncodeToString(digest[:])},
		}},
	})
	fatal(t, err)
	attested := logged(t, s, provider.Token(nil), statement, true)
	verifies(attested, "second")

	// A reader, readiness and metrics.
	_, checkpoint := process.Get(t, s.URL()+"/api/v2/checkpoint")
	if !bytes.HasPrefix(checkpoint, []byte("127.0.0.1\n2\n")) {
		t.Errorf("checkpoint %s", checkpoint)
	}
	if status, entries := process.Get(t, s.URL()+"/api/v2/tile/entries/000.p/2"); status != http.StatusOK ||
		!bytes.Contains(entries, []byte(`"kind":"hashedrekord"`)) {
		t.Errorf("tile: status %d, %s", status, entries)
	}
	if _, page := process.Get(t, "http://"+s.Admin+"/readyz"); !bytes.Contains(page, []byte("log rekor")) {
		t.Errorf("readyz: %s", page)
	}
	if _, page := process.Get(t, "http://"+s.Admin+"/metrics"); !bytes.Contains(page,
		[]byte(`mayfly_rekor_entries_total{kind="hashedrekord",result="logged"} 2`)) {
		t.Error("the metrics do not have the entries")
	}

	// The same entry again, and one with a bare key.
	entry := blob.Bundle.GetVerificationMaterial().GetTlogEntries()[0]
	post := func(body []byte) (int, string) {
		t.Helper()
		resp, err := http.Post(s.URL()+"/api/v2/log/entries", "application/json", bytes.NewReader(body))
		fatal(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		fatal(t, err)
		return resp.StatusCode, string(text)
	}
	var body struct {
		Spec struct {
			V002 struct {
				Data      struct{ Digest []byte }
				Signature json.RawMessage
			} `json:"hashedRekordV002"`
		}
	}
	fatal(t, json.Unmarshal(entry.GetCanonicalizedBody(), &body))
	again, err := json.Marshal(map[string]any{"hashedRekordRequestV002": map[string]any{
		"digest": body.Spec.V002.Data.Digest, "signature": body.Spec.V002.Signature,
	}})
	fatal(t, err)
	if status, text := post(again); status != http.StatusConflict || !strings.Contains(text, "ENTRY_EXISTS") {
		t.Errorf("again: status %d, %s", status, text)
	}
	bare, err := protojson.Marshal(bareEntry(t))
	fatal(t, err)
	if status, text := post(bare); status != http.StatusForbidden || !strings.Contains(text, "ENTRY_NOT_ADMITTED") {
		t.Errorf("a bare key: status %d, %s", status, text)
	}

	process.Poll(t, "the refusals are in the journal", func() bool { // nobody waits for their records
		return bytes.Contains(s.Read(t, "journal.jsonl"), []byte("ENTRY_NOT_ADMITTED"))
	})
	s.KillAndStart(t)
	third := logged(t, s, provider.Token(nil), []byte("third"), false)
	verifies(third, "third")
	if i := third.Bundle.GetVerificationMaterial().GetTlogEntries()[0].GetLogIndex(); i != 2 {
		t.Errorf("index %d after a kill", i)
	}
	verifies(blob, "first")

	// A new shard: the running CA logs in it, verifiers have its key, and both are checked.
	run("log", "rotate", "--log", "rekor", "--config", "mayfly.yaml", "--name", "next", "--unpublished", "--yes")
	process.Poll(t, "the new shard is open", func() bool {
		status, _ := process.Get(t, s.URL()+"/rekor/next/api/v2/checkpoint")
		return status == http.StatusOK
	})
	run("trust", "export", "--config", "mayfly.yaml", "--out", "trust", "--url", s.URL())
	fourth := logged(t, s, provider.Token(nil), []byte("fourth"), false)
	verifies(fourth, "fourth")
	verifies(blob, "first")
	if i := fourth.Bundle.GetVerificationMaterial().GetTlogEntries()[0].GetLogIndex(); i != 0 {
		t.Errorf("index %d in the new shard", i)
	}
	run("log", "fsck", "--log", "rekor", "--config", "mayfly.yaml")

	count := map[journal.Result]int{}
	fatal(t, journal.NewReader(filepath.Join(s.Dir, "journal.jsonl"), 1).Drain(
		func(d *journal.Damage) { t.Error(d) },
		func(e journal.Entry) error {
			if e.Kind == journal.Rekor {
				count[e.Result]++
				if e.RequestID == "" || e.Source == "" || e.Config == "" || e.Key == "" {
					t.Errorf("%+v", e.Record)
				}
				if e.Result == journal.Logged && (e.SAN == "" || e.Serial == "") {
					t.Errorf("%+v", e.Record)
				}
			}
			return nil
		}))
	if count[journal.Logged] != 4 || count[journal.Denied] != 2 {
		t.Errorf("records: %v", count)
	}
}

// bareEntry is a valid request with a key instead of a certificate.
func bareEntry(t *testing.T) *pb.CreateEntryRequest {
	t.Helper()
	key := pki.NewKey(pki.P256)
	digest := sha256.Sum256([]byte("artifact"))
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	fatal(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	fatal(t, err)
	return &pb.CreateEntryRequest{Spec: &pb.CreateEntryRequest_HashedRekordRequestV002{
		HashedRekordRequestV002: &pb.HashedRekordRequestV002{Digest: digest[:], Signature: &pb.Signature{
			Content: sig, Verifier: &pb.Verifier{
				Verifier:   &pb.Verifier_PublicKey{PublicKey: &pb.PublicKey{RawBytes: der}},
				KeyDetails: v1.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
			},
		}},
	}}
}
