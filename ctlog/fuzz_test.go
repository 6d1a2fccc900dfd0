package ctlog_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/json"
	"testing"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/tbs"
)

// B11: whatever a log answers, the parser neither panics nor lets pass what tbs would not read back as the same bytes.
func FuzzParseResponse(f *testing.F) {
	s, err := signSCT(newKey(f, elliptic.P256()), tbs.Entry{TBS: []byte("x")}, nil)
	if err != nil {
		f.Fatal(err)
	}
	sig := append([]byte{4, 3, 0, byte(len(s.Signature))}, s.Signature...)
	honest, err := json.Marshal(map[string]any{"sct_version": 0, "id": s.LogID[:], "timestamp": s.Timestamp, "extensions": "AAAFAQIDBAU=", "signature": sig})
	if err != nil {
		f.Fatal(err)
	}
	want, err := s.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	if got, err := ctlog.ParseResponse(honest); err != nil || !bytes.Equal(got, want) {
		f.Fatalf("the honest answer gives %x, %v; want %x", got, err, want)
	}
	for _, seed := range []string{string(honest), "", "{}", "null", "[]", string(honest) + "{}", `{"sct_version":1}`, `{"sct_version":0,"timestamp":0,"id":"AA=="}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		raw, err := ctlog.ParseResponse(body)
		if err != nil {
			return
		}
		s, err := tbs.ParseSCT(raw)
		if err != nil {
			t.Fatalf("%q gave %x, which is no SCT: %v", body, raw, err)
		}
		if again, err := s.Marshal(); err != nil || !bytes.Equal(raw, again) {
			t.Fatalf("%x became %x, %v", raw, again, err)
		}
	})
}

// A key that parses is one that a log may have.
func FuzzParsePublicKey(f *testing.F) {
	f.Add(publicPEM(f, newKey(f, elliptic.P256()).Public()))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := ctlog.ParsePublicKey(data)
		if (err == nil) != (key != nil) {
			t.Fatalf("key %T and error %v", key, err)
		}
	})
}
