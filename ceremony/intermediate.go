package ceremony

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"time"
)

// IntermediateOptions describe an issuing certificate that a running CA makes for itself.
type IntermediateOptions struct {
	// Parents has the certificate of Signer first, its root last.
	Parents []*x509.Certificate
	Signer  crypto.Signer
	Subject []byte        // the name of the new certificate, in DER
	Life    time.Duration // the certificate expires no later than its parent
}

// Intermediate makes a P-256 key and an issuing certificate for it: path length 0, for code signing only. The chain
// that it returns has the new certificate first. It writes no file.
func Intermediate(ctx context.Context, i IntermediateOptions, o Options) (crypto.Signer, []*x509.Certificate, error) {
	o.defaults()
	if err := checkParents(i.Parents); err != nil {
		return nil, nil, err
	}
	parent := i.Parents[0]
	if !equalKeys(i.Signer.Public(), parent.PublicKey) {
		return nil, nil, errors.New("the key is not the key of the first certificate of the chain")
	}
	key, err := GenerateKey("ecdsa-p256", o.Rand)
	if err != nil {
		return nil, nil, err
	}
	from := latest(o.Now.Add(-backdate), parent.NotBefore)
	m := maker{o: o, ctx: ctx, signer: i.Signer}
	c, err := m.make(request{
		profile: Profile{
			Role: RoleIntermediate, Subject: i.Subject,
			NotBefore: from, NotAfter: earliest(from.Add(i.Life), parent.NotAfter),
		},
		key: key.Public(), parents: i.Parents,
	})
	if err != nil {
		return nil, nil, err
	}
	return key, append([]*x509.Certificate{c}, i.Parents...), nil
}
