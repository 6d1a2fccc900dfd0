package rekor_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	v1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pbdsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/client/write"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor-tiles/v2/pkg/types/hashedrekord"
	tiles "github.com/sigstore/rekor-tiles/v2/pkg/verify"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/rekor"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// post sends a request as clients do, and returns the answer.
func post(t testing.TB, url string, in *pb.CreateEntryRequest) (int, http.Header, []byte) {
	t.Helper()
	body, err := protojson.Marshal(in)
	must(t, err)
	return postBytes(t, url, body)
}

func postBytes(t testing.TB, url string, body []byte) (int, http.Header, []byte) {
	t.Helper()
	resp, err := http.Post(url+rekor.EntriesPath, "application/json", bytes.NewReader(body))
	must(t, err)
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, resp.Header, out
}

func parse(t testing.TB, body []byte) *rekorpb.TransparencyLogEntry {
	t.Helper()
	out := &rekorpb.TransparencyLogEntry{}
	must(t, protojson.Unmarshal(body, out))
	return out
}

// The client and the verifier of rekor-tiles accept the answers, for every algorithm, with keys and with certificates.
// The body is what the verifiers of bundles reconstruct.
func TestEntries(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	url, _ := serve(t, rekor.Options{Log: l})
	client, err := write.NewWriter(url)
	must(t, err)
	authority := pki.New(pki.Options{})
	for name, r := range map[string]request{
		"P-256":     p256(),
		"P-384":     {key: pki.NewKey(pki.P384), details: v1.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384},
		"P-521":     {key: pki.NewKey(pki.P521), details: v1.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512},
		"Ed25519ph": {key: pki.NewKey(pki.Ed25519), details: v1.PublicKeyDetails_PKIX_ED25519_PH},
		"RSA":       {key: pki.NewKey(pki.RSA2048), details: v1.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256},
		"certificate": {
			key: authority.Key, cert: authority.Intermediate.Raw, details: v1.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
		},
	} {
		in := r.hashed(t, name)
		out, err := client.Add(t.Context(), in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := tiles.VerifyLogEntry(out, l.verifier); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want, err := hashedrekord.ToEntryHash(in.GetDigest(), in.GetSignature())
		must(t, err)
		if !bytes.Equal(rfc6962.DefaultHasher.HashLeaf(out.GetCanonicalizedBody()), want) {
			t.Errorf("%s: the body is not what a verifier reconstructs: %s", name, out.GetCanonicalizedBody())
		}
		if !bytes.Equal(out.GetLogId().GetKeyId(), l.id) || out.GetKindVersion().GetKind() != "hashedrekord" ||
			out.GetKindVersion().GetVersion() != "0.0.2" || out.GetIntegratedTime() != 0 ||
			out.GetInclusionPromise() != nil {
			t.Errorf("%s: %v", name, out)
		}
	}
	if n := l.size(); n != 6 {
		t.Errorf("%d entries", n)
	}
}

// A request with an envelope is logged as the signature over the digest of its pre-authentication encoding.
func TestEnvelope(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	url, _ := serve(t, rekor.Options{Log: l})
	in := p256().dsse(t, `{"_type":"https://in-toto.io/Statement/v1"}`)
	code, _, body := post(t, url, ofDSSE(in))
	if code != http.StatusCreated {
		t.Fatalf("status %d: %s", code, body)
	}
	out := parse(t, body)
	must(t, tiles.VerifyLogEntry(out, l.verifier))
	sent, verifiers := in.GetEnvelope(), in.GetVerifiers() //nolint:staticcheck // clients send it
	digest := sha256.Sum256(dsse.PAE("application/vnd.in-toto+json", sent.GetPayload()))
	want, err := hashedrekord.ToEntryHash(digest[:], &pb.Signature{
		Content: sent.GetSignatures()[0].GetSig(), Verifier: verifiers[0],
	})
	must(t, err)
	if !bytes.Equal(rfc6962.DefaultHasher.HashLeaf(out.GetCanonicalizedBody()), want) {
		t.Errorf("the body is not what a verifier reconstructs: %s", out.GetCanonicalizedBody())
	}
	// A payload above the size of other requests, as an SBOM has.
	if code, _, body := post(t, url, ofDSSE(p256().dsse(t, strings.Repeat("x", 2<<20)))); code != http.StatusCreated {
		t.Errorf("a large payload: status %d: %s", code, body)
	}
}

// What is not a valid entry is refused with the codes and messages of rekor-tiles and the reason, is not logged, and
// the journal has the refusal without the facts of an entry that was not verified.
func TestRefusals(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	open, closed := records(t)
	url, _ := serve(t, rekor.Options{Log: l, Journal: open, Config: func() string { return strings.Repeat("a", 64) }})
	hashed := func(change func(*pb.HashedRekordRequestV002)) *pb.CreateEntryRequest {
		in := p256().hashed(t, "artifact")
		change(in)
		return ofHashed(in)
	}
	envelope := func(change func(*pb.DSSERequestV002)) *pb.CreateEntryRequest { //nolint:staticcheck // clients send it
		in := p256().dsse(t, "payload")
		change(in)
		return ofDSSE(in)
	}
	pure := request{key: pki.NewKey(pki.Ed25519), details: v1.PublicKeyDetails_PKIX_ED25519}
	const invalid, invalidDSSE = "invalid hashedrekord request", "invalid dsse request"
	rows := []struct {
		name    string
		in      *pb.CreateEntryRequest
		message string
		reason  fault.Reason
		problem string
	}{
		{
			"nothing", &pb.CreateEntryRequest{}, "invalid type, must be either hashedrekord or dsse",
			fault.EntryMalformed, "neither hashedRekordRequestV002",
		},
		{
			"empty", ofHashed(&pb.HashedRekordRequestV002{}), invalid, fault.EntryMalformed, "digest is missing",
		},
		{
			"no signature", hashed(func(r *pb.HashedRekordRequestV002) { r.Signature.Content = nil }), invalid,
			fault.EntryMalformed, "signature.content is missing",
		},
		{
			"no verifier", hashed(func(r *pb.HashedRekordRequestV002) { r.Signature.Verifier = nil }), invalid,
			fault.EntryMalformed, "neither publicKey nor x509Certificate",
		},
		{
			"a broken key", hashed(func(r *pb.HashedRekordRequestV002) {
				r.Signature.Verifier.GetPublicKey().RawBytes = []byte("key")
			}), invalid, fault.EntryMalformed, "no SubjectPublicKeyInfo",
		},
		{
			"a broken certificate", hashed(func(r *pb.HashedRekordRequestV002) {
				r.Signature.Verifier.Verifier = &pb.Verifier_X509Certificate{
					X509Certificate: &v1.X509Certificate{RawBytes: []byte("cert")},
				}
			}), invalid, fault.EntryMalformed, "no certificate in DER",
		},
		{
			"a short digest", hashed(func(r *pb.HashedRekordRequestV002) { r.Digest = r.Digest[:20] }), invalid,
			fault.EntryMalformed, "20 bytes",
		},
		{
			"another digest", hashed(func(r *pb.HashedRekordRequestV002) { r.Digest[0] ^= 1 }), invalid,
			fault.EntrySignatureInvalid, "does not verify",
		},
		{
			"another key", hashed(func(r *pb.HashedRekordRequestV002) { r.Signature.Verifier = p256().verifier(t) }),
			invalid,
			fault.EntrySignatureInvalid, "does not verify",
		},
		{
			"another algorithm", hashed(func(r *pb.HashedRekordRequestV002) {
				r.Signature.Verifier.KeyDetails = v1.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384
			}), invalid, fault.EntryAlgorithmNotAllowed, "does not have the algorithm",
		},
		{
			// the key is also one for PKCS #1 v1.5, by which rekor-tiles up to v2.4.0 verifies
			"RSA-PSS", ofHashed(func() *pb.HashedRekordRequestV002 {
				r := request{
					key: pki.NewKey(pki.RSA2048), details: v1.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256,
				}.hashed(t, "artifact")
				r.Signature.Verifier.KeyDetails = v1.PublicKeyDetails_PKIX_RSA_PSS_2048_SHA256
				return r
			}()), invalid, fault.EntryAlgorithmNotAllowed, "PKIX_RSA_PSS_2048_SHA256",
		},
		{
			"no algorithm", hashed(func(r *pb.HashedRekordRequestV002) { r.Signature.Verifier.KeyDetails = 0 }),
			invalid,
			fault.EntryAlgorithmNotAllowed, "UNSPECIFIED",
		},
		{
			"an unknown algorithm",
			hashed(func(r *pb.HashedRekordRequestV002) { r.Signature.Verifier.KeyDetails = 9999 }),
			invalid, fault.EntryAlgorithmNotAllowed, "9999",
		},
		{
			"Ed25519", hashed(func(r *pb.HashedRekordRequestV002) { r.Signature.Verifier = pure.verifier(t) }), invalid,
			fault.EntryAlgorithmNotAllowed, "PKIX_ED25519",
		},
		{
			"no envelope", envelope(func(r *pb.DSSERequestV002) { r.Envelope = nil }), invalidDSSE, //nolint:staticcheck // clients send it
			fault.EntryMalformed, "envelope is missing",
		},
		{
			"an envelope without a signature", envelope(func(r *pb.DSSERequestV002) { r.Envelope.Signatures = nil }), //nolint:staticcheck // likewise
			invalidDSSE, fault.EntryMalformed, "0 signatures",
		},
		{
			"two signatures", envelope(func(r *pb.DSSERequestV002) { //nolint:staticcheck // likewise
				r.Envelope.Signatures = append(r.Envelope.Signatures, &pbdsse.Signature{Sig: []byte("x")}) //nolint:staticcheck // likewise
			}), invalidDSSE, fault.EntryMalformed, "2 signatures",
		},
		{
			"two verifiers", envelope(func(r *pb.DSSERequestV002) { r.Verifiers = append(r.Verifiers, p256().verifier(t)) }), //nolint:staticcheck // likewise
			invalidDSSE, fault.EntryMalformed, "2 verifiers",
		},
		{
			"another payload", envelope(func(r *pb.DSSERequestV002) { r.Envelope.Payload[0] ^= 1 }), invalidDSSE, //nolint:staticcheck // likewise
			fault.EntrySignatureInvalid, "does not verify",
		},
		{
			"another payload type", envelope(func(r *pb.DSSERequestV002) { r.Envelope.PayloadType += "x" }), invalidDSSE, //nolint:staticcheck // likewise
			fault.EntrySignatureInvalid, "does not verify",
		},
		{
			"an envelope with Ed25519", envelope(func(r *pb.DSSERequestV002) { r.Verifiers[0] = pure.verifier(t) }), //nolint:staticcheck // likewise
			invalidDSSE, fault.EntryAlgorithmNotAllowed, "Ed25519ph",
		},
		{
			"too large for a tile", hashed(func(r *pb.HashedRekordRequestV002) { *r = *largeEntry(t) }), invalid, //nolint:govet // the value is used once
			fault.EntryMalformed, "at most 65535",
		},
	}
	for _, row := range rows {
		code, _, body := post(t, url, row.in)
		if text := string(body); code != http.StatusBadRequest || !strings.Contains(text, row.message+" [") ||
			!strings.Contains(text, string(row.reason)) || !strings.Contains(text, row.problem) {
			t.Errorf("%s: status %d, %s", row.name, code, body)
		}
	}
	if n := l.size(); n != 0 {
		t.Errorf("%d entries were logged", n)
	}
	all := closed()
	if len(all) != len(rows) {
		t.Errorf("%d records of %d refusals", len(all), len(rows))
	}
	for i, r := range all {
		if i < len(rows) && r.Reason != string(rows[i].reason) || r.Result != journal.Denied || r.Key != "" ||
			r.LogEntry != (journal.LogEntry{}) || r.RequestID != "req-1" || r.Source != "192.0.2.1" || r.Config == "" {
			t.Errorf("record %d: %+v", i, r)
		}
	}
}

// largeEntry returns a valid request whose entry is larger than an entry of a tile may be.
func largeEntry(t testing.TB) *pb.HashedRekordRequestV002 {
	t.Helper()
	key := pki.NewKey(pki.P256)
	der := selfSigned(t, key, strings.Repeat("x", 60<<10))
	return request{key: key, cert: der, details: v1.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256}.hashed(t, "artifact")
}

// A request that cannot be decoded is refused, without a record: it is no decision.
func TestUndecodable(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	open, closed := records(t)
	url, _ := serve(t, rekor.Options{Log: l, Journal: open})
	good, err := protojson.Marshal(ofHashed(p256().hashed(t, "artifact")))
	must(t, err)
	for name, row := range map[string]struct {
		body   string
		code   int
		reason fault.Reason
	}{
		"no JSON":   {"{", 400, fault.RequestMalformed},
		"empty":     {"", 400, fault.RequestMalformed},
		"unknown":   {`{"unknown":1,` + string(good[1:]), 400, fault.RequestMalformed},
		"two kinds": {string(good[:len(good)-1]) + `,"dsseRequestV002":{}}`, 400, fault.RequestMalformed},
		"too large": {strings.Repeat(" ", rekor.MaxBody+1), 429, fault.RequestTooLarge},
	} {
		code, _, body := postBytes(t, url, []byte(row.body))
		if code != row.code || !strings.Contains(string(body), string(row.reason)) {
			t.Errorf("%s: status %d, %s", name, code, body)
		}
	}
	// without a length in advance
	resp, err := http.Post(url+rekor.EntriesPath, "application/json",
		io.MultiReader(strings.NewReader(strings.Repeat(" ", rekor.MaxBody)), strings.NewReader("  ")))
	must(t, err)
	must(t, resp.Body.Close())
	if resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("too large, without a length: status %d", resp.StatusCode)
	}
	resp, err = http.Get(url + rekor.EntriesPath)
	must(t, err)
	must(t, resp.Body.Close())
	if resp.StatusCode != http.StatusNotImplemented || resp.Header.Get("Allow") != http.MethodPost {
		t.Errorf("GET: status %d, %v", resp.StatusCode, resp.Header)
	}
	if n, all := l.size(), closed(); n+len(all) != 0 {
		t.Errorf("%d entries, records %v", n, all)
	}
}

// An entry that is logged, or is being logged, is refused with its index, over REST and gRPC; an entry whose logging
// has failed is not.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	url, s := serve(t, rekor.Options{Log: l})
	for range 2 {
		if code, _, body := post(t, url, ofHashed(p256().hashed(t, "other"))); code != http.StatusCreated {
			t.Fatalf("status %d, %s", code, body)
		}
	}
	in := ofHashed(p256().hashed(t, "artifact"))
	l.fail = errors.New("a fault")
	if code, _, body := post(t, url, in); code != http.StatusServiceUnavailable ||
		!strings.Contains(string(body), string(fault.EntryNotLogged)) || strings.Contains(string(body), "a fault") {
		t.Errorf("failed: status %d, %s", code, body)
	}
	l.fail, l.block = nil, make(chan struct{})
	for range len(l.adding) {
		<-l.adding
	}
	var codesSeen sync.Map
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			code, h, body := post(t, url, in)
			codesSeen.Store(i, code)
			if code == http.StatusConflict && (h.Get("X-Log-Index") != "2" ||
				!strings.Contains(string(body),
					"an equivalent entry already exists in the transparency log with index 2")) {
				t.Errorf("%v, %s", h, body)
			}
		})
	}
	<-l.adding
	close(l.block)
	running.Wait()
	count := map[int]int{}
	codesSeen.Range(func(_, code any) bool { count[code.(int)]++; return true })
	if count[http.StatusCreated] != 1 || count[http.StatusConflict] != 7 || l.size() != 3 {
		t.Errorf("%v, %d entries", count, l.size())
	}
	_, err := s.CreateEntry(t.Context(), in)
	if f := fault.From(err); status.Code(err) != codes.AlreadyExists {
		t.Errorf("over gRPC: %v", f)
	}
}

// With Admit, only entries with a certificate of the CA are logged. The journal has the facts of both kinds of entries.
func TestAdmitOwn(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	open, closed := records(t)
	key := pki.NewKey(pki.P256)
	own, foreign := selfSigned(t, key, "own"), selfSigned(t, key, "foreign")
	url, _ := serve(t, rekor.Options{Log: l, Journal: open, Admit: func(c *x509.Certificate) error {
		if c.Subject.CommonName != "own" {
			return errors.New("the secret cause")
		}
		return nil
	}})
	with := func(der []byte) request {
		return request{key: key, cert: der, details: v1.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256}
	}
	for _, in := range []*pb.CreateEntryRequest{
		ofHashed(with(foreign).hashed(t, "a")), ofHashed(p256().hashed(t, "a")), ofDSSE(with(foreign).dsse(t, "a")),
	} {
		code, _, body := post(t, url, in)
		if code != http.StatusForbidden || !strings.Contains(string(body), string(fault.EntryNotAdmitted)) ||
			strings.Contains(string(body), "secret") {
			t.Errorf("status %d, %s", code, body)
		}
	}
	in := with(own).hashed(t, "a")
	if code, _, body := post(t, url, ofHashed(in)); code != http.StatusCreated {
		t.Errorf("status %d, %s", code, body)
	}
	all := closed()
	if len(all) != 4 || l.size() != 1 {
		t.Fatalf("%d records, %d entries", len(all), l.size())
	}
	sum := sha256.Sum256(own)
	last := all[3]
	if last.Result != journal.Logged || last.Certificate != hex.EncodeToString(sum[:]) || last.Serial == "" ||
		last.KeyType != "ecdsa-sha2-256-nistp256" || last.LogEntry != (journal.LogEntry{
		Kind: "hashedrekord", Digest: "sha256:" + hex.EncodeToString(in.GetDigest()),
		Leaf: hex.EncodeToString(rfc6962.DefaultHasher.HashLeaf(l.leaves[0])), Log: hex.EncodeToString(l.id),
	}) {
		t.Errorf("%+v", last)
	}
	for _, r := range all[:3] {
		if r.Result != journal.Denied || r.Reason != string(fault.EntryNotAdmitted) || r.LogEntry.Log != "" ||
			r.LogEntry.Leaf == "" || r.Key == "" {
			t.Errorf("%+v", r)
		}
	}
}

// An answer of the log whose proof does not verify is not given to a client.
func TestBadProof(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*rekor.Inclusion){
		"another root":  func(at *rekor.Inclusion) { at.Root[0] ^= 1 },
		"another index": func(at *rekor.Inclusion) { at.Index-- },
		"no hashes":     func(at *rekor.Inclusion) { at.Hashes = nil },
		"a huge index":  func(at *rekor.Inclusion) { at.Index = 1 << 63 },
	} {
		l := newLog(t)
		url, _ := serve(t, rekor.Options{Log: l})
		post(t, url, ofHashed(p256().hashed(t, "other")))
		l.change = change
		code, _, body := post(t, url, ofHashed(p256().hashed(t, "artifact")))
		if code != http.StatusServiceUnavailable || !strings.Contains(string(body), string(fault.EntryNotLogged)) {
			t.Errorf("%s: status %d, %s", name, code, body)
		}
	}
}

// An entry is not confirmed before its record is durable.
func TestJournalFails(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	j, err := journal.Open(journal.Config{File: t.TempDir() + "/journal.jsonl"}, journal.Options{})
	must(t, err)
	must(t, j.Close(t.Context(), 0))
	url, _ := serve(t, rekor.Options{Log: l, Journal: func() *journal.Journal { return j }})
	code, _, body := post(t, url, ofHashed(p256().hashed(t, "artifact")))
	if code != http.StatusServiceUnavailable || !strings.Contains(string(body), string(fault.JournalUnavailable)) {
		t.Errorf("status %d, %s", code, body)
	}
}

// No more than the configured number of entries wait for the log, and a request that waits has paused.
func TestWaiting(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.block = make(chan struct{})
	var mu sync.Mutex
	paused, most := 0, 0
	url, _ := serve(t, rekor.Options{Log: l, Waiting: 3, Pause: func() func() {
		mu.Lock()
		defer mu.Unlock()
		paused++
		most = max(most, paused)
		return func() {
			mu.Lock()
			defer mu.Unlock()
			paused--
		}
	}})
	var running sync.WaitGroup
	for i := range 3 {
		running.Go(func() {
			if code, _, body := post(t, url, ofHashed(p256().hashed(t, fmt.Sprint(i)))); code != http.StatusCreated {
				t.Errorf("status %d, %s", code, body)
			}
		})
	}
	for range 3 {
		<-l.adding
	}
	if code, _, body := post(t, url, ofHashed(p256().hashed(t, "x"))); code != http.StatusServiceUnavailable {
		t.Errorf("status %d, %s", code, body)
	}
	close(l.block)
	running.Wait()
	if mu.Lock(); paused != 0 || most < 3 {
		t.Errorf("paused %d, at most %d", paused, most)
	}
	mu.Unlock()
}

// A caller that goes away ends its wait, and the entry may be logged by the next request.
func TestCanceled(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.block = make(chan struct{})
	_, s := serve(t, rekor.Options{Log: l})
	in := ofHashed(p256().hashed(t, "artifact"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := s.CreateEntry(ctx, in)
		ended <- err
	}()
	<-l.adding
	cancel()
	if err := <-ended; status.Code(err) != codes.Canceled {
		t.Errorf("%v", err)
	}
	close(l.block)
	if out, err := s.CreateEntry(t.Context(), in); err != nil || out.GetLogIndex() != 0 {
		t.Errorf("%v, %v", out, err)
	}
}

// The answer has the members that clients in other languages require.
func TestAnswerJSON(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, rekor.Options{Log: newLog(t)})
	code, h, body := post(t, url, ofHashed(p256().hashed(t, "artifact")))
	var out map[string]any
	must(t, json.Unmarshal(body, &out))
	for _, member := range []string{"logIndex", "logId", "kindVersion", "inclusionProof", "canonicalizedBody"} {
		if out[member] == nil {
			t.Errorf("%s is missing in %s", member, body)
		}
	}
	if code != http.StatusCreated || h.Get("Content-Type") != "application/json" {
		t.Errorf("status %d, %v", code, h)
	}
}

// FuzzRequest: whatever a client sends, what is logged is in canonical form, and verifies.
func FuzzRequest(f *testing.F) {
	for _, in := range []*pb.CreateEntryRequest{
		{},
		ofHashed(p256().hashed(f, "artifact")), ofDSSE(p256().dsse(f, "payload")),
		ofHashed(request{key: pki.NewKey(pki.Ed25519), details: v1.PublicKeyDetails_PKIX_ED25519_PH}.hashed(f, "x")),
	} {
		text, err := protojson.Marshal(in)
		must(f, err)
		f.Add(text)
		binary, err := proto.Marshal(in)
		must(f, err)
		f.Add(binary)
	}
	l := newLog(f)
	s := rekor.New(rekor.Options{Log: l})
	f.Fuzz(func(t *testing.T, data []byte) {
		for len(l.adding) > 0 {
			<-l.adding
		}
		in := &pb.CreateEntryRequest{}
		if protojson.Unmarshal(data, in) != nil && proto.Unmarshal(data, in) != nil {
			return
		}
		out, err := s.CreateEntry(t.Context(), in)
		if err != nil {
			return
		}
		must(t, tiles.VerifyLogEntry(out, l.verifier))
		entry := &pb.Entry{}
		must(t, protojson.Unmarshal(out.GetCanonicalizedBody(), entry))
		logged := entry.GetSpec().GetHashedRekordV002()
		want, err := hashedrekord.ToEntryHash(logged.GetData().GetDigest(), logged.GetSignature())
		must(t, err)
		if !bytes.Equal(want, rfc6962.DefaultHasher.HashLeaf(out.GetCanonicalizedBody())) {
			t.Errorf("not canonical: %s", out.GetCanonicalizedBody())
		}
	})
}
