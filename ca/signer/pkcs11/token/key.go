//go:build cgo

package token

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"

	"github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11/wire"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
)

// Constants of PKCS #11 v3.0 §2.3.5 that the client library does not define.
const (
	ckkECEdwards = 0x40
	ckmEdDSA     = 0x1057
)

// servedKey is a key with its name. Its public key stays the same as long as the process runs.
type servedKey struct {
	token *Token
	at    int // in generation.keys
	name  KeyName

	mu     sync.Mutex
	signer *remote.Signer // nil until the token was opened once
}

var (
	_ wire.Key   = (*servedKey)(nil)
	_ remote.Raw = (*rawKey)(nil)
)

// rawKey signs and does not verify the signature.
type rawKey struct {
	*servedKey
	public crypto.PublicKey
}

// adopt records the public key that was found in the token. It refuses any other public key later.
func (k *servedKey) adopt(public crypto.PublicKey) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.signer != nil {
		if !equal(k.signer.Public(), public) {
			return errors.New("the reopened token has a different key with this name; restart the process if " +
				"that is intended")
		}
		return nil
	}
	limit := min(2*k.token.o.CallLimit, MaxCallLimit)
	k.signer = remote.New(remote.Options{Key: k.name.text, Limits: remote.Limits{
		Timeout: &limit, Attempts: 2, Concurrent: k.token.o.Sessions,
	}}).Signer(&rawKey{k, public})
	return nil
}

// guarded returns the signer that verifies each signature. Until the token was opened once, it returns the cause.
func (k *servedKey) guarded() (*remote.Signer, error) {
	k.mu.Lock()
	s := k.signer
	k.mu.Unlock()
	if s != nil {
		return s, nil
	}
	_, done, err := k.use()
	if err == nil {
		done()
		err = &remote.Error{Kind: remote.Unavailable, Err: errors.New("the token is being opened")}
	}
	return nil, err
}

// use returns the key in the open token, and a function that ends its use.
func (k *servedKey) use() (*generation, func(), error) {
	g, done, err := k.token.use()
	if err != nil {
		return nil, nil, err
	}
	if g.keys[k.at] == nil {
		done()
		return nil, nil, g.causes[k.at]
	}
	return g, done, nil
}

// Public implements [wire.Key].
func (k *servedKey) Public() (crypto.PublicKey, error) {
	s, err := k.guarded()
	if err != nil {
		return nil, err
	}
	return s.Public(), nil
}

// Attest implements [wire.Key] with the attributes that the token had when it was opened.
func (k *servedKey) Attest(context.Context) (wire.Answer, error) {
	g, done, err := k.use()
	if err != nil {
		return wire.Answer{}, err
	}
	defer done()
	o := g.keys[k.at]
	return wire.Answer{Exportable: o.exportable, Reason: o.reason, Evidence: o.evidence}, nil
}

// Health implements [wire.Key].
func (k *servedKey) Health(context.Context) error {
	g, done, err := k.use()
	if err != nil {
		return err
	}
	defer done()
	if !k.token.alive(g) {
		k.token.reportLost()
		return &remote.Error{Kind: remote.Unavailable, After: firstPause, Err: errors.New("the token is lost")}
	}
	return nil
}

// Sign implements [wire.Key]. The signature verifies with the public key.
func (k *servedKey) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s, err := k.guarded()
	if err != nil {
		return nil, err
	}
	signature, err := s.SignContext(ctx, digest, opts)
	var e *remote.Error
	if errors.As(err, &e) && e.Kind == remote.WrongKey {
		k.token.log.Error("the token made a signature that does not verify; it was not sent", "key", k.name.text)
		k.token.reportLost()
	}
	return signature, err
}

// Public implements [remote.Raw].
func (k *rawKey) Public() crypto.PublicKey { return k.public }

// Sign implements [remote.Raw].
func (k *rawKey) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	m, data, err := mechanism(k.public, digest, opts)
	if err != nil {
		return nil, &remote.Error{Kind: remote.Failed, Err: err}
	}
	g, done, err := k.use()
	if err != nil {
		return nil, err
	}
	defer done()
	s, err := k.token.session(ctx, g)
	if err != nil {
		return nil, err
	}
	raw, err := k.token.sign(g, s, toSign{g.keys[k.at], m, data})
	if err != nil {
		_ = g.module.CloseSession(s) // the state of the session is unknown
		g.sessions <- unopened
		return nil, k.token.failure(err)
	}
	g.sessions <- s
	if _, ok := k.public.(*ecdsa.PublicKey); ok {
		return derSignature(raw)
	}
	return raw, nil
}

type toSign struct {
	key       *object
	mechanism *pkcs11.Mechanism
	data      []byte
}

func (t *Token) sign(g *generation, s pkcs11.SessionHandle, x toSign) ([]byte, error) {
	defer t.watch("C_Sign", t.o.CallLimit)()
	if err := g.module.SignInit(s, []*pkcs11.Mechanism{x.mechanism}, x.key.handle); err != nil {
		return nil, err
	}
	if x.key.always {
		if err := g.module.Login(s, pkcs11.CKU_CONTEXT_SPECIFIC, string(g.pin)); err != nil {
			return nil, err
		}
	}
	return g.module.Sign(s, x.data)
}

// mechanism returns the mechanism of a signature (PKCS #11 v2.40 §2.1 and §2.3, v3.0 §2.3.14) and its input.
func mechanism(public crypto.PublicKey, digest []byte, opts crypto.SignerOpts) (*pkcs11.Mechanism, []byte, error) {
	hash := opts.HashFunc()
	switch public.(type) {
	case *ecdsa.PublicKey:
		if hash == 0 {
			return nil, nil, errors.New("an ECDSA key signs digests")
		}
		return pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil), digest, nil
	case ed25519.PublicKey:
		if hash != 0 {
			return nil, nil, errors.New("an Ed25519 key signs messages, not digests")
		}
		return pkcs11.NewMechanism(ckmEdDSA, nil), digest, nil
	case *rsa.PublicKey:
		info, ok := digestInfos[hash]
		if !ok {
			return nil, nil, fmt.Errorf("an RSA key does not sign with the hash %s here", hash)
		}
		if _, pss := opts.(*rsa.PSSOptions); pss {
			parameters := pkcs11.NewPSSParams(info.mechanism, info.mgf, uint(hash.Size())) //nolint:gosec // at most 64
			return pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_PSS, parameters), digest, nil
		}
		return pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS, nil), append([]byte(info.prefix), digest...), nil
	}
	return nil, nil, fmt.Errorf("a key of type %T cannot sign", public)
}

// digestInfos has the prefixes of digests in RFC 8017 §9.2 note 1, and the names of the hashes in PKCS #11.
var digestInfos = map[crypto.Hash]struct {
	prefix         string
	mechanism, mgf uint
}{
	crypto.SHA256: {
		"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20",
		pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256,
	},
	crypto.SHA384: {
		"\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30",
		pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384,
	},
	crypto.SHA512: {
		"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40",
		pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512,
	},
}

// derSignature turns the two numbers of an ECDSA signature into the ASN.1 of RFC 3279 §2.2.3.
func derSignature(raw []byte) ([]byte, error) {
	if len(raw) == 0 || len(raw)%2 != 0 {
		return nil, &remote.Error{
			Kind: remote.WrongKey,
			Err:  fmt.Errorf("%d bytes are not an ECDSA signature", len(raw)),
		}
	}
	half := len(raw) / 2
	return asn1.Marshal(struct{ R, S *big.Int }{
		new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:]),
	})
}

// maxObjects is the maximum number of objects that a search returns.
const maxObjects = 16

// search returns the objects with these attributes.
func (t *Token) search(g *generation, template ...*pkcs11.Attribute) (found []pkcs11.ObjectHandle, err error) {
	defer t.watch("C_FindObjects", openLimit)()
	if err := g.module.FindObjectsInit(g.base, template); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.module.FindObjectsFinal(g.base)) }()
	for len(found) < maxObjects {
		some, _, err := g.module.FindObjects(g.base, maxObjects)
		if err != nil || len(some) == 0 {
			return found, err
		}
		found = append(found, some...)
	}
	return found, nil
}

// attribute returns the value of an attribute, or nil if the token does not provide it.
func (t *Token) attribute(g *generation, o pkcs11.ObjectHandle, which uint) []byte {
	defer t.watch("C_GetAttributeValue", openLimit)()
	values, err := g.module.GetAttributeValue(g.base, o, []*pkcs11.Attribute{pkcs11.NewAttribute(which, nil)})
	if err != nil || len(values) != 1 {
		return nil
	}
	return values[0].Value
}

// findKey finds a private key that signs, and its public key.
func (t *Token) findKey(g *generation, n KeyName) (*object, error) {
	template := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)}
	if n.label != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, n.label))
	}
	if len(n.id) > 0 {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, n.id))
	}
	found, err := t.search(g, template...)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, fmt.Errorf("the token %q does not have this private key; it has %s", g.info.Label, t.others(g))
	case len(found) > 1:
		return nil, fmt.Errorf("the token %q has %d such private keys: select one by label and identifier, from %s",
			g.info.Label, len(found), t.others(g))
	}
	o := &object{handle: found[0]}
	o.label, o.id = string(t.attribute(g, o.handle, pkcs11.CKA_LABEL)), t.attribute(g, o.handle, pkcs11.CKA_ID)
	if v := t.attribute(g, o.handle, pkcs11.CKA_SIGN); len(v) == 1 && v[0] == 0 {
		return nil, errors.New("the token does not allow this key to sign (CKA_SIGN is false)")
	}
	v := t.attribute(g, o.handle, pkcs11.CKA_ALWAYS_AUTHENTICATE)
	o.always = len(v) == 1 && v[0] != 0 && t.o.PIN != nil
	if o.public, err = t.publicKey(g, o); err != nil {
		return nil, err
	}
	t.attest(g, o)
	return o, nil
}

// others lists the private keys of the token, for a message.
func (t *Token) others(g *generation) string {
	found, err := t.search(g, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY))
	if err != nil || len(found) == 0 {
		return "none that this user may see"
	}
	var out []string
	for _, o := range found {
		out = append(out, fmt.Sprintf("%.60q,id:%x", t.attribute(g, o, pkcs11.CKA_LABEL),
			t.attribute(g, o, pkcs11.CKA_ID)))
	}
	return strings.Join(out, ", ")
}

// publicKey finds the public key of a private one: in its own attributes (RSA), or in a public key or a certificate
// with the same identifier.
func (t *Token) publicKey(g *generation, private *object) (crypto.PublicKey, error) {
	candidates := []pkcs11.ObjectHandle{private.handle}
	for _, class := range []uint{pkcs11.CKO_PUBLIC_KEY, pkcs11.CKO_CERTIFICATE} {
		same := pkcs11.NewAttribute(pkcs11.CKA_ID, private.id)
		if len(private.id) == 0 {
			same = pkcs11.NewAttribute(pkcs11.CKA_LABEL, private.label)
		}
		found, err := t.search(g, pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), same)
		if err != nil {
			return nil, err
		}
		candidates = append(candidates, found...)
	}
	why := errors.New("the token has neither a public key nor a certificate with the identifier of the private key: " +
		"import one (\"pkcs11-tool --write-object FILE --type pubkey --id HEX\")")
	for i, o := range candidates {
		public, err := t.parsePublicKey(g, o)
		if err == nil {
			return public, nil
		}
		if i > 0 {
			why = err
		}
	}
	return nil, why
}

func (t *Token) parsePublicKey(g *generation, o pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	get := func(which uint) []byte { return t.attribute(g, o, which) }
	if der := get(pkcs11.CKA_VALUE); len(der) > 0 && number(get(pkcs11.CKA_CLASS)) == pkcs11.CKO_CERTIFICATE {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, errors.New("the certificate in the token cannot be parsed")
		}
		return allowed(c.PublicKey)
	}
	switch kind := number(get(pkcs11.CKA_KEY_TYPE)); kind {
	case pkcs11.CKK_RSA:
		return rsaKey(get(pkcs11.CKA_MODULUS), get(pkcs11.CKA_PUBLIC_EXPONENT))
	case pkcs11.CKK_EC:
		return ecKey(get(pkcs11.CKA_EC_PARAMS), get(pkcs11.CKA_EC_POINT))
	case ckkECEdwards:
		return edwardsKey(get(pkcs11.CKA_EC_PARAMS), get(pkcs11.CKA_EC_POINT))
	default:
		return nil, fmt.Errorf("the key has the type %#x of PKCS #11; use an EC, RSA or Ed25519 key", kind)
	}
}

// number reads a CK_ULONG: 4 or 8 bytes in the byte order of this machine. For any other length, it returns a value
// that PKCS #11 does not use.
func number(v []byte) uint64 {
	switch len(v) {
	case 4:
		return uint64(binary.NativeEndian.Uint32(v))
	case 8:
		return binary.NativeEndian.Uint64(v)
	}
	return ^uint64(0)
}

func rsaKey(modulus, exponent []byte) (crypto.PublicKey, error) {
	e := new(big.Int).SetBytes(exponent)
	if len(modulus) == 0 || e.BitLen() > 31 || e.BitLen() < 2 {
		return nil, errors.New("the token does not return the modulus and the exponent of the RSA key")
	}
	return allowed(&rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(e.Int64())})
}

// curves are the curves of CA keys, by the DER of their object identifier (RFC 5480 §2.1.1.1).
var curves = map[string]elliptic.Curve{
	"06082a8648ce3d030107": elliptic.P256(),
	"06052b81040022":       elliptic.P384(),
	"06052b81040023":       elliptic.P521(),
}

// ecKey reads a point: uncompressed, in an OCTET STRING (PKCS #11 v2.40 §2.3.3) or, by some tokens, bare.
func ecKey(parameters, point []byte) (crypto.PublicKey, error) {
	curve := curves[hex.EncodeToString(parameters)]
	if curve == nil {
		return nil, fmt.Errorf("the curve with the parameters %.60x is not allowed for a CA; use P-256, P-384 or P-521",
			parameters)
	}
	for _, raw := range [][]byte{unwrapped(point), point} {
		if key, err := ecdsa.ParseUncompressedPublicKey(curve, raw); err == nil {
			return key, nil
		}
	}
	return nil, errors.New("the token does not return the point of the EC key")
}

// edwardsKey reads an Ed25519 key. Its curve is named by the object identifier of RFC 8410 §3, or by a name (PKCS #11
// v3.0 §2.3.10).
func edwardsKey(parameters, point []byte) (crypto.PublicKey, error) {
	var curve string
	_, _ = asn1.Unmarshal(parameters, &curve)
	if !bytes.Equal(parameters, []byte("\x06\x03\x2b\x65\x70")) && curve != "edwards25519" &&
		!bytes.Equal(parameters, []byte("\x06\x09\x2b\x06\x01\x04\x01\xda\x47\x0f\x01")) {
		return nil, fmt.Errorf("the Edwards curve with the parameters %.60x is not allowed for a CA; use Ed25519",
			parameters)
	}
	for _, raw := range [][]byte{unwrapped(point), point} {
		if len(raw) == ed25519.PublicKeySize {
			return ed25519.PublicKey(raw), nil
		}
	}
	return nil, errors.New("the token does not return the point of the Ed25519 key")
}

// unwrapped returns the content of an OCTET STRING, or nil.
func unwrapped(der []byte) []byte {
	var content []byte
	if rest, err := asn1.Unmarshal(der, &content); err != nil || len(rest) > 0 {
		return nil
	}
	return content
}

// allowed refuses keys that are not suitable for a CA.
func allowed(public crypto.PublicKey) (crypto.PublicKey, error) {
	switch key := public.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < 2048 || n > 8192 {
			return nil, fmt.Errorf("an RSA key of %d bits is too short for a CA; use 3072", n)
		}
		return key, nil
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return key, nil
	}
	return nil, fmt.Errorf("a key of type %T is not used for a CA", public)
}

// attest records the attributes that say whether the private key can be exported (PKCS #11 v2.40 §4.9).
func (t *Token) attest(g *generation, o *object) {
	o.evidence = map[string]string{
		"token": g.info.Label, "serial": g.info.SerialNumber, "model": g.info.Model,
		"manufacturer": g.info.ManufacturerID,
		"firmware":     fmt.Sprintf("%d.%d", g.info.FirmwareVersion.Major, g.info.FirmwareVersion.Minor),
		"label":        o.label, "id": hex.EncodeToString(o.id),
	}
	said := map[string]bool{}
	known := map[string]bool{}
	for name, which := range map[string]uint{
		"CKA_EXTRACTABLE": pkcs11.CKA_EXTRACTABLE, "CKA_SENSITIVE": pkcs11.CKA_SENSITIVE, "CKA_LOCAL": pkcs11.CKA_LOCAL,
		"CKA_NEVER_EXTRACTABLE": pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_ALWAYS_SENSITIVE": pkcs11.CKA_ALWAYS_SENSITIVE,
	} {
		if v := t.attribute(g, o.handle, which); len(v) == 1 {
			known[name], said[name] = true, v[0] != 0
			o.evidence[name] = fmt.Sprint(v[0] != 0)
		}
	}
	switch {
	case !known["CKA_EXTRACTABLE"]:
		o.exportable, o.reason = "unknown", "the token does not tell CKA_EXTRACTABLE"
	case said["CKA_EXTRACTABLE"]:
		o.exportable, o.reason = "yes",
			"the token says that the key can be wrapped and taken out (CKA_EXTRACTABLE is true)"
	case said["CKA_NEVER_EXTRACTABLE"]:
		o.exportable, o.reason = "no", "the token says that the key can not be taken out, and never could "+
			"(CKA_EXTRACTABLE is false, CKA_NEVER_EXTRACTABLE is true)"
	default:
		o.exportable, o.reason = "no", "the token says that the key can not be taken out (CKA_EXTRACTABLE is false); "+
			"before, it was outside of the token or extractable (CKA_NEVER_EXTRACTABLE is false)"
	}
}
