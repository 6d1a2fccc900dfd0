package rekor_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	v1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/rekor/pkg/generated/models"
	rekorverify "github.com/sigstore/rekor/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/rekor"
	"github.com/mayfly-ca/mayfly/rekor/entry"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// inPEM is the key or certificate of r.
func (r request) inPEM(t testing.TB) []byte {
	t.Helper()
	if r.cert != nil {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.cert})
	}
	der, err := x509.MarshalPKIXPublicKey(r.key.Public())
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// hashedV1 is a proposed entry as gitsign, sigstore-rs and sigstore-ruby send it.
func (r request) hashedV1(t testing.TB, message string) map[string]any {
	t.Helper()
	digest, sig := r.sign(t, []byte(message))
	name := map[int]string{32: "sha256", 48: "sha384", 64: "sha512"}[len(digest)]
	return map[string]any{"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": map[string]any{
		"signature": map[string]any{"content": sig, "publicKey": map[string]any{"content": r.inPEM(t)}},
		"data":      map[string]any{"hash": map[string]any{"algorithm": name, "value": hex.EncodeToString(digest)}},
	}}
}

// dsseV1 is a proposed entry as "npm publish --provenance" sends it.
func (r request) dsseV1(t testing.TB, payload string) map[string]any {
	t.Helper()
	const payloadType = "application/vnd.in-toto+json"
	_, sig := r.sign(t, dsse.PAE(payloadType, []byte(payload)))
	envelope, err := json.Marshal(map[string]any{
		"payloadType": payloadType, "payload": []byte(payload),
		"signatures": []any{map[string]any{"sig": sig, "keyid": ""}},
	})
	must(t, err)
	return map[string]any{"apiVersion": "0.0.1", "kind": "dsse", "spec": map[string]any{
		"proposedContent": map[string]any{"envelope": string(envelope), "verifiers": []any{r.inPEM(t)}},
	}}
}

// logV1 is a log with the API of Rekor v1.
type logV1 struct {
	*memoryLog
	handler http.Handler
	key     *signature.ECDSASignerVerifier
}

func newV1(t testing.TB, o rekor.Options, v rekor.V1) logV1 {
	t.Helper()
	l := logV1{memoryLog: newLog(t), key: newKeyV1(t)}
	public, err := l.key.PublicKey()
	must(t, err)
	spki, err := x509.MarshalPKIXPublicKey(public)
	must(t, err)
	id := sha256.Sum256(spki)
	l.id = id[:]
	o.Log = l
	if o.Call == nil {
		o.Call = func(ctx context.Context, _ string, run func(context.Context, rekor.Request) error) error {
			return asStatus(run(ctx, rekor.Request{Add: func(string, string) {}}))
		}
	}
	if v.Key == nil {
		v.Key = func([]byte) (rekor.KeyV1, error) { return rekor.KeyV1{Origin: origin, Signer: l.key}, nil }
	}
	l.handler = rekor.New(o).HandlerV1(v, func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, err.Error(), http.StatusTeapot)
	})
	return l
}

func newKeyV1(t testing.TB) *signature.ECDSASignerVerifier {
	t.Helper()
	key, err := signature.LoadECDSASignerVerifier(pki.NewKey(pki.P256).(*ecdsa.PrivateKey), crypto.SHA256)
	must(t, err)
	return key
}

// post sends a proposed entry, and returns the status and the body of the answer.
func (l logV1) post(t testing.TB, in any) (int, string, []byte) {
	t.Helper()
	body, err := json.Marshal(in)
	must(t, err)
	return l.postBytes(t, body)
}

func (l logV1) postBytes(t testing.TB, body []byte) (int, string, []byte) {
	t.Helper()
	w := httptest.NewRecorder()
	l.handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, rekor.EntriesPathV1,
		bytes.NewReader(body)))
	return w.Code, w.Header().Get("Location"), w.Body.Bytes()
}

// The verifier of Rekor v1 accepts the answers, with keys and with certificates: proof, checkpoint, signed timestamp.
func TestV1Entries(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := newV1(t, rekor.Options{}, rekor.V1{Now: func() (time.Time, error) { return now, nil }})
	authority := pki.New(pki.Options{})
	certified := request{
		key: authority.Key, cert: authority.Intermediate.Raw, details: v1.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
	}
	p384 := request{key: pki.NewKey(pki.P384), details: v1.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384}
	rsa := request{key: pki.NewKey(pki.RSA2048), details: v1.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256}
	for i, in := range []map[string]any{
		p256().hashedV1(t, "one"), certified.hashedV1(t, "two"), p384.hashedV1(t, "three"), rsa.hashedV1(t, "four"),
		certified.dsseV1(t, `{"_type":"https://in-toto.io/Statement/v1"}`),
	} {
		code, location, body := l.post(t, in)
		if code != http.StatusCreated {
			t.Errorf("entry %d: status %d: %s", i, code, body)
			continue
		}
		if !bytes.HasSuffix(body, []byte("}\n")) {
			t.Errorf("entry %d: the answer does not end as sigstore-rs expects it: %q", i, body[len(body)-3:])
		}
		var answer models.LogEntry
		must(t, json.Unmarshal(body, &answer))
		for id, e := range answer {
			if !strings.HasSuffix(location, "/"+id) {
				t.Errorf("entry %d: %s, and its place is %s", i, id, location)
			}
			must(t, e.Validate(nil))
			if err := rekorverify.VerifyLogEntry(t.Context(), &e, l.key); err != nil {
				t.Errorf("entry %d: %v", i, err)
			}
			leaf, err := base64.StdEncoding.DecodeString(e.Body.(string))
			must(t, err)
			if *e.LogIndex != int64(i) || *e.IntegratedTime != now.Unix() || *e.LogID != hex.EncodeToString(l.id) ||
				!bytes.Equal(leaf, l.leaves[i]) {
				t.Errorf("entry %d: %s", i, body)
			}
			if _, err := entry.Parse(leaf); err != nil {
				t.Errorf("entry %d: %v", i, err)
			}
			if text := *e.Verification.InclusionProof.Checkpoint; !strings.HasPrefix(text, origin+" - 1\n") {
				t.Errorf("checkpoint %q: clients do not recognize it as one of Rekor v1", text)
			}
		}
	}
	if n := l.size(); n != 5 {
		t.Errorf("%d entries", n)
	}
}

// What is not a valid entry is not logged.
func TestV1Refusals(t *testing.T) {
	t.Parallel()
	l := newV1(t, rekor.Options{}, rekor.V1{})
	change := func(in map[string]any, value any, path ...string) map[string]any {
		at := in
		for _, name := range path[:len(path)-1] {
			at = at[name].(map[string]any)
		}
		at[path[len(path)-1]] = value
		return in
	}
	hashed := func(value any, path ...string) map[string]any {
		return change(p256().hashedV1(t, "artifact"), value, path...)
	}
	enveloped := func(value any, path ...string) map[string]any {
		return change(p256().dsseV1(t, "payload"), value, path...)
	}
	canonical := map[string]any{"apiVersion": "0.0.1", "kind": "dsse", "spec": map[string]any{
		"envelopeHash": map[string]any{"algorithm": "sha256", "value": strings.Repeat("0", 64)},
		"payloadHash":  map[string]any{"algorithm": "sha256", "value": strings.Repeat("0", 64)},
		"signatures":   []any{map[string]any{"signature": "c2ln", "verifier": p256().inPEM(t)}},
	}}
	one := p256().dsseV1(t, "payload")["spec"].(map[string]any)["proposedContent"].(map[string]any)["envelope"].(string)
	for name, c := range map[string]struct {
		in     any
		reason fault.Reason
	}{
		"nothing":      {map[string]any{}, fault.EntryMalformed},
		"a list":       {[]any{}, fault.EntryMalformed},
		"another kind": {hashed("rekord", "kind"), fault.EntryMalformed},
		"unknown kind": {hashed("mayfly", "kind"), fault.EntryMalformed},
		"version":      {hashed("0.0.2", "apiVersion"), fault.EntrySignatureInvalid},
		"another digest": {
			hashed(strings.Repeat("0", 64), "spec", "data", "hash", "value"),
			fault.EntrySignatureInvalid,
		},
		"no signature": {hashed("", "spec", "signature", "content"), fault.EntrySignatureInvalid},
		"another key": {
			hashed(p256().inPEM(t), "spec", "signature", "publicKey", "content"),
			fault.EntrySignatureInvalid,
		},
		"no key": {hashed("", "spec", "signature", "publicKey", "content"), fault.EntrySignatureInvalid},
		"hash of the key": {
			func() any {
				r := request{key: pki.NewKey(pki.P384), details: v1.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256}
				return r.hashedV1(t, "artifact") // P-384 with SHA-256
			}(), fault.EntryAlgorithmNotAllowed,
		},
		"another envelope":    {enveloped(one, "spec", "proposedContent", "envelope"), fault.EntrySignatureInvalid},
		"no envelope":         {enveloped(nil, "spec", "proposedContent", "envelope"), fault.EntryMalformed},
		"envelope is no JSON": {enveloped("x", "spec", "proposedContent", "envelope"), fault.EntryMalformed},
		"no verifier":         {enveloped([]any{}, "spec", "proposedContent", "verifiers"), fault.EntryMalformed},
		"two verifiers": {
			enveloped([]any{p256().inPEM(t), p256().inPEM(t)}, "spec", "proposedContent", "verifiers"),
			fault.EntryMalformed,
		},
		"two signatures": {
			enveloped(strings.Replace(one, `"signatures":[`, `"signatures":[{"sig":"c2ln"},`, 1), "spec",
				"proposedContent", "envelope"), fault.EntryMalformed,
		},
		"as logged, without an envelope": {canonical, fault.EntryMalformed},
	} {
		code, _, body := l.post(t, c.in)
		if code != http.StatusTeapot || !strings.Contains(string(body), string(c.reason)) {
			t.Errorf("%s: status %d, %s, want %s", name, code, body, c.reason)
		}
	}
	if n := l.size(); n != 0 {
		t.Errorf("%d entries are logged", n)
	}
}

// The API gives no answer that clients would not verify, or whose time may be wrong.
func TestV1Stops(t *testing.T) {
	t.Parallel()
	other := newKeyV1(t)
	ed, err := signature.LoadSigner(pki.NewKey(pki.Ed25519), crypto.Hash(0))
	must(t, err)
	for name, v := range map[string]rekor.V1{
		"clock": {Now: func() (time.Time, error) { return time.Time{}, errors.New("the clock is wrong") }},
		"another key": {Key: func([]byte) (rekor.KeyV1,
			error,
		) {
			return rekor.KeyV1{Origin: origin, Signer: other}, nil
		}},
		"Ed25519": {Key: func([]byte) (rekor.KeyV1, error) { return rekor.KeyV1{Origin: origin, Signer: ed}, nil }},
		"no key":  {Key: func([]byte) (rekor.KeyV1, error) { return rekor.KeyV1{}, errors.New("unknown shard") }},
	} {
		l := newV1(t, rekor.Options{}, v)
		if code, _, body := l.post(t, p256().hashedV1(t, "artifact")); code != http.StatusTeapot ||
			!strings.Contains(string(body), string(fault.EntryNotLogged)) {
			t.Errorf("%s: status %d: %s", name, code, body)
		}
		if name == "clock" && l.size() > 0 {
			t.Error("an entry is logged that gets no timestamp")
		}
	}
}

func FuzzV1(f *testing.F) {
	l := newV1(f, rekor.Options{}, rekor.V1{})
	for _, in := range []any{p256().hashedV1(f, "artifact"), p256().dsseV1(f, "payload")} {
		body, err := json.Marshal(in)
		must(f, err)
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if code, _, out := l.postBytes(t, body); code == http.StatusCreated {
			var answer models.LogEntry
			must(t, json.Unmarshal(out, &answer))
			for _, e := range answer {
				must(t, rekorverify.VerifyLogEntry(t.Context(), &e, l.key))
			}
		}
	})
}
