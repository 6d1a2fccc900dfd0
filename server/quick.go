package server

import (
	"encoding/json"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// quick writes the one answer that is asked for all the time, a certificate with embedded SCTs, without reflection over its
// message. All else is the marshaler's.
type quick struct{ runtime.Marshaler }

// Marshal implements [runtime.Marshaler].
func (q quick) Marshal(v any) ([]byte, error) {
	answer, ok := v.(*fulciopb.SigningCertificate)
	if chain := answer.GetSignedCertificateEmbeddedSct().GetChain(); ok && chain != nil {
		var out embeddedAnswer
		out.Embedded.Chain.Certificates = chain.GetCertificates()
		return json.Marshal(out)
	}
	return q.Marshaler.Marshal(v)
}

// embeddedAnswer is a SigningCertificate with signed_certificate_embedded_sct, as protojson writes it.
type embeddedAnswer struct {
	Embedded struct {
		Chain struct {
			Certificates []string `json:"certificates"`
		} `json:"chain"`
	} `json:"signedCertificateEmbeddedSct"`
}
