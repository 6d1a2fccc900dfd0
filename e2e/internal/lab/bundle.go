package lab

import (
	"crypto/x509"
	"encoding/json"
)

// Bundle is what a Sigstore bundle carries, as far as the tests look.
type Bundle struct {
	Leaf                *x509.Certificate
	Entries, Timestamps int // of transparency logs and of timestamp authorities
}

// Bundle reads a bundle.
func (l *Lab) Bundle(file string) Bundle {
	l.Helper()
	var b struct {
		Material struct {
			Certificate struct {
				RawBytes []byte `json:"rawBytes"`
			} `json:"certificate"`
			Entries    []json.RawMessage `json:"tlogEntries"`
			Timestamps struct {
				RFC3161 []json.RawMessage `json:"rfc3161Timestamps"`
			} `json:"timestampVerificationData"`
		} `json:"verificationMaterial"`
	}
	if err := json.Unmarshal([]byte(l.Read(file)), &b); err != nil {
		l.Fatalf("%s: %v", file, err)
	}
	return Bundle{
		Leaf:    must(x509.ParseCertificate(b.Material.Certificate.RawBytes))(l),
		Entries: len(b.Material.Entries), Timestamps: len(b.Material.Timestamps.RFC3161),
	}
}
