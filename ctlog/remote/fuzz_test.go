package remote

import (
	"bytes"
	"encoding/json"
	"testing"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"

	"github.com/mayfly-ca/mayfly/tbs"
)

// B11: whatever a log answers, the parser neither panics nor lets pass what tbs would not read back as the same bytes.
func FuzzAnswer(f *testing.F) {
	s := tbs.SCT{
		LogID: [32]byte{1}, Timestamp: 1, Extensions: []byte{0, 0, 5, 1, 2, 3, 4, 5}, Hash: 4, Sig: 3,
		Signature: []byte("signature"),
	}
	sig := append([]byte{4, 3, 0, byte(len(s.Signature))}, s.Signature...)
	honest, err := json.Marshal(map[string]any{
		"sct_version": 0, "id": s.LogID[:], "timestamp": s.Timestamp,
		"extensions": "AAAFAQIDBAU=", "signature": sig,
	})
	if err != nil {
		f.Fatal(err)
	}
	want, err := s.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	if got, err := parseAnswer(honest); err != nil || !bytes.Equal(got, want) {
		f.Fatalf("the honest answer gives %x, %v; want %x", got, err, want)
	}
	for _, seed := range []string{
		string(honest), "", "{}", "null", "[]", string(honest) + "{}", `{"sct_version":1}`,
		`{"sct_version":0,"timestamp":0,"id":"AA=="}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		raw, err := parseAnswer(body)
		if theirs, ok := parseWithLibrary(body); ok != (err == nil) || ok && !bytes.Equal(theirs, raw) {
			t.Fatalf("%q gave %x, %v; certificate-transparency-go reads %x, %t", body, raw, err, theirs, ok)
		}
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

// parseAnswer reads an answer as [Log.AddPreChain] does.
func parseAnswer(body []byte) ([]byte, error) {
	var a sctAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, err
	}
	return a.sct()
}

// parseWithLibrary reads an answer with certificate-transparency-go; ok is false where there is no SCT of version 1 in
// it, or a member is absent that the library takes to be zero.
func parseWithLibrary(body []byte) (raw []byte, ok bool) {
	var present struct {
		Version   *json.RawMessage `json:"sct_version"`
		Timestamp *json.RawMessage `json:"timestamp"`
	}
	var answer ct.AddChainResponse
	if json.Unmarshal(body, &present) != nil || json.Unmarshal(body, &answer) != nil || present.Version == nil ||
		present.Timestamp == nil || answer.SCTVersion != ct.V1 {
		return nil, false
	}
	s, err := answer.ToSignedCertificateTimestamp()
	if err != nil {
		return nil, false
	}
	raw, err = tls.Marshal(*s)
	return raw, err == nil
}
