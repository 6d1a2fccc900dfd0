package entry_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/rekor/entry"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// body is an entry in canonical form.
func body(kind, verifier string) string {
	sum := sha256.Sum256([]byte("artifact"))
	digest := base64.StdEncoding.EncodeToString(sum[:])
	signature := `{"content":"c2ln","verifier":{"keyDetails":"PKIX_ECDSA_P256_SHA_256",` + verifier + `}}`
	spec := fmt.Sprintf(`{"hashedRekordV002":{"data":{"algorithm":"SHA2_256","digest":%q},"signature":%s}}`, digest,
		signature)
	if kind == entry.DSSE {
		spec = fmt.Sprintf(`{"dsseV002":{"payloadHash":{"algorithm":"SHA2_256","digest":%q},"signatures":[%s,%s]}}`,
			digest, signature, signature)
	}
	return fmt.Sprintf(`{"apiVersion":"0.0.2","kind":%q,"spec":%s}`, kind, spec)
}

func certificate() (der []byte, verifier string) {
	der = pki.New(pki.Options{}).Root.Raw
	return der, `"x509Certificate":{"rawBytes":"` + base64.StdEncoding.EncodeToString(der) + `"}`
}

func key() (spki []byte, verifier string) {
	spki, err := x509.MarshalPKIXPublicKey(pki.NewKey(pki.P256).Public())
	if err != nil {
		panic(err)
	}
	return spki, `"publicKey":{"rawBytes":"` + base64.StdEncoding.EncodeToString(spki) + `"}`
}

func TestParse(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256([]byte("artifact"))
	der, byCertificate := certificate()
	spki, byKey := key()
	for _, kind := range []string{entry.HashedRekord, entry.DSSE} {
		for name, verifier := range map[string]string{"certificate": byCertificate, "key": byKey} {
			e, err := entry.Parse([]byte(body(kind, verifier)))
			if err != nil {
				t.Fatalf("%s, %s: %v", kind, name, err)
			}
			if want := map[string]int{entry.HashedRekord: 1, entry.DSSE: 2}[kind]; e.Kind != kind ||
				e.Digest.String() != fmt.Sprintf("sha256:%x", sum) || len(e.Signatures) != want {
				t.Errorf("%s, %s: %+v", kind, name, e)
			}
			for _, s := range e.Signatures {
				if string(s.Value) != "sig" || (name == "certificate") != (s.Certificate != nil) ||
					name == "certificate" && string(s.Certificate.Raw) != string(der) ||
					name == "key" && string(s.Key) != string(spki) {
					t.Errorf("%s, %s: %+v", kind, name, s)
				}
			}
		}
	}
}

// A body that is not the one form of an entry is refused: two bodies must not be the same entry.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	_, byKey := key()
	good := body(entry.HashedRekord, byKey)
	for name, bad := range map[string]string{
		"empty":   "",
		"no JSON": "hello",
		"space":   strings.Replace(good, ":", ": ", 1),
		"order of members": strings.Replace(strings.Replace(good, `"apiVersion":"0.0.2",`, "", 1),
			`"kind":"hashedrekord",`, `"kind":"hashedrekord","apiVersion":"0.0.2",`, 1),
		"unknown member":    strings.Replace(good, `{"apiVersion"`, `{"a":1,"apiVersion"`, 1),
		"other version":     strings.Replace(good, `"0.0.2"`, `"0.0.1"`, 1),
		"unknown version":   strings.Replace(good, `"0.0.2"`, `"0.0.3"`, 1),
		"other kind":        strings.Replace(good, `"hashedrekord"`, `"rpm"`, 1),
		"kind of another":   strings.Replace(good, `"hashedrekord"`, `"dsse"`, 1),
		"other algorithm":   strings.Replace(good, "SHA2_256", "SHA2_384", 1),
		"unknown algorithm": strings.Replace(good, `"SHA2_256"`, `"MD5"`, 1),
		"no signature":      strings.Replace(good, `"c2ln"`, `""`, 1),
		"no verifier":       strings.Replace(good, byKey, `"x509Certificate":{}`, 1),
		"bad certificate":   strings.Replace(good, byKey, `"x509Certificate":{"rawBytes":"AAAA"}`, 1),
		"no spec":           `{"apiVersion":"0.0.2","kind":"hashedrekord"}`,
		"deep nesting":      strings.Repeat("[", 60000),
		"too large":         strings.Replace(good, "c2ln", strings.Repeat("AAAA", entry.MaxSize/4), 1),
	} {
		if bad == good {
			t.Fatalf("%s: the same", name)
		}
		if e, err := entry.Parse([]byte(bad)); err == nil {
			t.Errorf("%s is accepted: %+v", name, e)
		}
	}
}

// bodyV1 is an entry of Rekor v1.
func bodyV1(kind string, block *pem.Block) string {
	sum := sha256.Sum256([]byte("artifact"))
	verifier := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(block))
	hash := fmt.Sprintf(`{"algorithm":"sha256","value":"%x"}`, sum)
	spec := fmt.Sprintf(`{"data":{"hash":%s},"signature":{"content":"c2ln","publicKey":{"content":%q}}}`, hash,
		verifier)
	if kind == entry.DSSE {
		spec = fmt.Sprintf(`{"envelopeHash":%s,"payloadHash":%s,"signatures":[{"signature":"c2ln","verifier":%q}]}`,
			hash,
			hash, verifier)
	}
	return fmt.Sprintf(`{"apiVersion":"0.0.1","kind":%q,"spec":%s}`, kind, spec)
}

// Package rekor has the test that these are the bodies which Rekor's own package makes.
func TestParseV1(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256([]byte("artifact"))
	der, _ := certificate()
	spki, _ := key()
	byCertificate := &pem.Block{Type: "CERTIFICATE", Bytes: der}
	byKey := &pem.Block{Type: "PUBLIC KEY", Bytes: spki}
	for _, kind := range []string{entry.HashedRekord, entry.DSSE} {
		for _, block := range []*pem.Block{byCertificate, byKey} {
			e, err := entry.Parse([]byte(bodyV1(kind, block)))
			if err != nil {
				t.Fatalf("%s, %s: %v", kind, block.Type, err)
			}
			if e.Kind != kind || e.Digest.String() != fmt.Sprintf("sha256:%x", sum) || len(e.Signatures) != 1 {
				t.Errorf("%s, %s: %+v", kind, block.Type, e)
			}
			s := e.Signatures[0]
			if string(s.Value) != "sig" || block == byCertificate && string(s.Certificate.Raw) != string(der) ||
				block == byKey && (s.Certificate != nil || string(s.Key) != string(spki)) {
				t.Errorf("%s, %s: %+v", kind, block.Type, s)
			}
		}
	}
	good := bodyV1(entry.HashedRekord, byKey)
	enveloped := bodyV1(entry.DSSE, byKey)
	before, _, _ := strings.Cut(enveloped, `"signatures":`)
	for name, bad := range map[string]string{
		"space":           strings.Replace(good, ":", ": ", 1),
		"unknown member":  strings.Replace(good, `{"apiVersion"`, `{"a":1,"apiVersion"`, 1),
		"repeated member": strings.Replace(good, `"kind":`, `"kind":"dsse","kind":`, 1),
		"other kind":      strings.Replace(good, `"hashedrekord"`, `"rpm"`, 1),
		"kind of another": strings.Replace(good, `"hashedrekord"`, `"dsse"`, 1),
		"other algorithm": strings.Replace(good, "sha256", "sha1", 1),
		"short digest":    strings.Replace(good, `"value":"`, `"value":"00`, 1),
		"no signature":    strings.Replace(good, `"c2ln"`, `""`, 1),
		"no key": strings.Replace(good,
			base64.StdEncoding.EncodeToString(pem.EncodeToMemory(byKey)), "AAAA", 1),
		"bad certificate": bodyV1(entry.HashedRekord, &pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}),
		"empty key":       bodyV1(entry.HashedRekord, &pem.Block{Type: "PUBLIC KEY"}),
		"no signatures":   before + `"signatures":[]}}`,
		"no envelope hash": strings.Replace(enveloped, `"envelopeHash":{"algorithm":"sha256"`,
			`"envelopeHash":{"algorithm":""`, 1),
	} {
		if bad == good || bad == enveloped {
			t.Fatalf("%s: the same", name)
		}
		if e, err := entry.Parse([]byte(bad)); err == nil {
			t.Errorf("%s is accepted: %+v", name, e)
		}
	}
}

func FuzzParse(f *testing.F) {
	_, byCertificate := certificate()
	_, byKey := key()
	for _, kind := range []string{entry.HashedRekord, entry.DSSE} {
		f.Add([]byte(body(kind, byCertificate)))
		f.Add([]byte(body(kind, byKey)))
		f.Add([]byte(bodyV1(kind, &pem.Block{Type: "PUBLIC KEY", Bytes: []byte("key")})))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := entry.Parse(data)
		if err != nil {
			return
		}
		if len(e.Signatures) == 0 || len(e.Digest.Sum) == 0 {
			t.Errorf("%+v", e)
		}
		for _, s := range e.Signatures {
			if s.Certificate == nil && len(s.Key) == 0 || len(s.Value) == 0 {
				t.Errorf("%+v", s)
			}
		}
	})
}
