//go:build cgo

package token

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"github.com/miekg/pkcs11"
)

// CheckSignatures is the number of signatures that [Token.Check] makes with each key.
const CheckSignatures = 5

// Report is the result of a check of a token.
type Report struct {
	Library    pkcs11.Info // the zero value if the library does not provide it
	Token      pkcs11.TokenInfo
	Signatures int // at once
	Keys       []KeyReport
}

// KeyReport is the result of a check of one key.
type KeyReport struct {
	Name       KeyName
	Public     crypto.PublicKey // nil: the key cannot be used, and Err says why
	Label      string
	ID         []byte
	Exportable string        // yes, no, or unknown
	Reason     string        // of Exportable
	Took       time.Duration // median of one signature
	Err        error
}

// Check opens the token once, signs with each key, and closes the token.
func (t *Token) Check(ctx context.Context) (Report, error) {
	defer t.close()
	g, err := t.open()
	if err != nil {
		return Report{}, errors.New(reason(err))
	}
	t.set(g, nil)
	r := Report{Token: g.info, Signatures: t.poolSize(g.info)}
	stop := t.watch("C_GetInfo", openLimit)
	if info, err := g.module.GetInfo(); err == nil {
		r.Library = info
	}
	stop()
	for i, k := range t.served {
		one := KeyReport{Name: k.name}
		if o := g.keys[i]; o == nil {
			one.Err = errors.New(reason(g.causes[i]))
		} else {
			one.Public, one.Label, one.ID, one.Exportable, one.Reason = o.public, o.label, o.id, o.exportable, o.reason
			one.Took, one.Err = signSome(ctx, k)
		}
		r.Keys = append(r.Keys, one)
	}
	return r, nil
}

// signSome signs texts that are neither certificates nor messages of a protocol, and returns the median time.
func signSome(ctx context.Context, k *servedKey) (time.Duration, error) {
	message := []byte("mayfly-hsm --check: this message proves that the key signs, and means nothing else")
	digest := sha256.Sum256(message)
	var took []time.Duration
	for range CheckSignatures {
		s, err := k.guarded()
		if err != nil {
			return 0, err
		}
		start := time.Now()
		if _, edwards := s.Public().(ed25519.PublicKey); edwards {
			_, err = s.SignContext(ctx, message, crypto.Hash(0))
		} else {
			_, err = s.SignContext(ctx, digest[:], crypto.SHA256)
		}
		if err != nil {
			return 0, err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}
