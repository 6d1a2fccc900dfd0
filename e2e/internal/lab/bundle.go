package lab

import (
	"crypto/x509"
	"encoding/json"
)

// Bundle holds the parts of a Sigstore bundle that the tests examine.
type Bundle struct {
	Leaf                *x509.Certificate
	Entries, Timestamps int // of transparency logs and of timestamp authorities
}

type rawCertificate struct {
	RawBytes []byte `json:"rawBytes"`
}

// Bundle reads a bundle.
func (l *Lab) Bundle(file string) Bundle {
	l.Helper()
	var b struct {
		Material struct {
			Certificate rawCertificate `json:"certificate"`
			Chain       struct {
				Certificates []rawCertificate `json:"certificates"`
			} `json:"x509CertificateChain"` // as bundles before 0.3 have it
			Entries    []json.RawMessage `json:"tlogEntries"`
			Timestamps struct {
				RFC3161 []json.RawMessage `json:"rfc3161Timestamps"`
			} `json:"timestampVerificationData"`
		} `json:"verificationMaterial"`
	}
	if err := json.Unmarshal([]byte(l.Read(file)), &b); err != nil {
		l.Fatalf("%s: %v", file, err)
	}
	if chain := b.Material.Chain.Certificates; len(chain) > 0 {
		b.Material.Certificate = chain[0]
	}
	return Bundle{
		Leaf:    must(x509.ParseCertificate(b.Material.Certificate.RawBytes))(l),
		Entries: len(b.Material.Entries), Timestamps: len(b.Material.Timestamps.RFC3161),
	}
}
