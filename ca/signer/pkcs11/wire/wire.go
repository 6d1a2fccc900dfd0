// Package wire implements version 1 of the protocol between the CA and a process that signs for it, over a Unix socket.
// docs/keys-hsm.md describes the protocol for other implementations. [Client] is used by the CA, [Server] by
// cmd/mayfly-hsm.
//
// A message is a frame: a length in four bytes, most significant byte first, then one JSON object of that length, at
// most [MaxFrame] bytes. On a connection, the client reads the answer to a request before it sends the next request;
// for concurrent calls it opens several connections. The first request of a connection is "hello". The receiver ignores
// unknown members. Client and server check the user of the other process before they read a byte.
//
// After a frame that is too long or is not a JSON object, the connection is closed. Client and server MUST NOT allocate
// more memory for a frame than its length, and MUST NOT wait for a frame without a limit.
package wire

import (
	"crypto"
	"crypto/rsa"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer/remote"
)

const (
	// Version is the version of the protocol that this package speaks.
	Version = 1
	// MaxFrame is the greatest number of bytes of a JSON object.
	MaxFrame = 64 << 10

	prefix = 4 // bytes of the length
)

// The operations.
const (
	OpHello     = "hello"      // agree on a version
	OpPublicKey = "public_key" // the public key, and whether the private key can be exported
	OpSign      = "sign"       // one signature
	OpHealth    = "health"     // whether the key could sign, without a signature
)

// Request is a message of the CA.
type Request struct {
	Op string `json:"op"`
	// Versions are the versions that the client supports, for hello.
	Versions []int `json:"versions,omitempty"`
	// Program is the client's name and version, for hello. It is for people.
	Program string `json:"program,omitempty"`
	// Key names the key. It may be empty if the server has only one key.
	Key string `json:"key,omitempty"`
	// Scheme is one of the schemes below, for sign.
	Scheme string `json:"scheme,omitempty"`
	// Hash is "sha256", "sha384" or "sha512", for sign. It is empty for Ed25519.
	Hash string `json:"hash,omitempty"`
	// Data is the digest, or the message for Ed25519; in base64 (RFC 4648 §4) on the wire.
	Data []byte `json:"data,omitempty"`
	// TimeoutMS is the time, in milliseconds, after which the client no longer waits for the answer. 0: the server's
	// own limit.
	TimeoutMS int64 `json:"timeout_ms,omitempty"`
}

// Answer is a message of the server.
type Answer struct {
	// Error says why there is no result. The other members then have no meaning.
	Error *Error `json:"error,omitempty"`
	// Version is the version of all further messages, for hello.
	Version int `json:"version,omitempty"`
	// Program is the server's name and version, for hello. It is for people.
	Program string `json:"program,omitempty"`
	// Keys are the names of the keys, for hello.
	Keys []string `json:"keys,omitempty"`
	// PublicKey is a SubjectPublicKeyInfo in DER (RFC 5280 §4.1), for public_key; in base64 on the wire.
	PublicKey []byte `json:"public_key,omitempty"`
	// Exportable is "yes", "no" or "unknown": whether the private key can be exported, for public_key.
	Exportable string `json:"exportable,omitempty"`
	// Reason explains Exportable. It is for people.
	Reason string `json:"reason,omitempty"`
	// Evidence has the facts that the key store reports about the key, such as {"CKA_EXTRACTABLE": "false"}.
	Evidence map[string]string `json:"evidence,omitempty"`
	// Signature is in the form of [crypto.Signer]: for ECDSA the ASN.1 of RFC 3279 §2.2.3. In base64 on the wire.
	Signature []byte `json:"signature,omitempty"`
}

// Error is a failure, as the server sends it.
type Error struct {
	// Kind is the name of a [remote.Kind], or of one of the errors below.
	Kind string `json:"kind"`
	// Text is the cause, for the operator. It has no secret.
	Text string `json:"text,omitempty"`
	// RetryAfterMS is the wait before another attempt, in milliseconds. 0: the server does not ask for one.
	RetryAfterMS int64 `json:"retry_after_ms,omitempty"`
}

// Kinds of errors in a request. The CA treats all of them as [remote.Failed].
const (
	KindMalformed  = "malformed"   // the request is not understood
	KindVersion    = "version"     // no common version
	KindUnknownKey = "unknown_key" // no key of this name
)

// The schemes.
const (
	SchemeECDSA    = "ecdsa"     // FIPS 186-5 §6
	SchemePKCS1    = "rsa-pkcs1" // RFC 8017 §8.2
	SchemePSS      = "rsa-pss"   // RFC 8017 §8.1 with MGF1 of the same hash, and a salt as long as the hash
	SchemeEd25519  = "ed25519"   // RFC 8032 §5.1
	maxRetryAfter  = time.Minute
	maxTimeout     = 10 * time.Second
	defaultTimeout = 4 * time.Second
)

var hashes = map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512}

// describe sets the scheme and the hash of a signature request.
func (r *Request) describe(public crypto.PublicKey, opts crypto.SignerOpts) error {
	hash := opts.HashFunc()
	switch _, pss := opts.(*rsa.PSSOptions); {
	case hash == 0:
		r.Scheme = SchemeEd25519
		return nil
	case pss:
		if n := opts.(*rsa.PSSOptions).SaltLength; n != rsa.PSSSaltLengthEqualsHash && n != hash.Size() {
			return errors.New("the salt of a PSS signature must be as long as the hash")
		}
		r.Scheme = SchemePSS
	default:
		r.Scheme = SchemeECDSA
		if _, ok := public.(*rsa.PublicKey); ok {
			r.Scheme = SchemePKCS1
		}
	}
	for name, h := range hashes {
		if h == hash {
			r.Hash = name
			return nil
		}
	}
	return fmt.Errorf("the hash %s is not supported", hash)
}

// options returns the options of a signature request, and checks that its data match the options.
func (r *Request) options() (crypto.SignerOpts, error) {
	if r.Scheme == SchemeEd25519 {
		if r.Hash != "" {
			return nil, errors.New("ed25519 signs the message; omit the hash")
		}
		return crypto.Hash(0), nil
	}
	hash, ok := hashes[r.Hash]
	switch {
	case !ok:
		return nil, fmt.Errorf("the hash %.20q is unknown; write sha256, sha384 or sha512", r.Hash)
	case len(r.Data) != hash.Size():
		return nil, fmt.Errorf("%d bytes of data are not a digest of %s", len(r.Data), r.Hash)
	}
	switch r.Scheme {
	case SchemeECDSA, SchemePKCS1:
		return hash, nil
	case SchemePSS:
		return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}, nil
	}
	return nil, fmt.Errorf("the scheme %.20q is unknown", r.Scheme)
}

// errFrame says that the received bytes are not a message of this protocol. The connection can no longer be used.
var errFrame = errors.New("not a message of the signer protocol")

// readFrame reads one JSON object into v. The error is io.EOF only if the connection ends between two messages.
func readFrame(r io.Reader, v any) error {
	var head [prefix]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 2 || n > MaxFrame {
		return fmt.Errorf("%w: a length of %d bytes, where 2 to %d are allowed", errFrame, n, MaxFrame)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		if errors.Is(err, io.EOF) { // the end of the connection in the middle of a message
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("a message is truncated: %w", err)
	}
	if body[0] != '{' {
		return fmt.Errorf("%w: not a JSON object", errFrame)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: the JSON does not parse", errFrame) // the cause can contain received bytes
	}
	return nil
}

// writeFrame writes v as one JSON object.
func writeFrame(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(body) > MaxFrame {
		return fmt.Errorf("%w: %d bytes, where at most %d are allowed", errFrame, len(body), MaxFrame)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, prefix+len(body)), uint32(len(body))),
		body...))
	return err
}

// kindsByName has the kinds of failures by their names in the protocol.
func kindOf(name string) remote.Kind {
	for _, k := range []remote.Kind{
		remote.Denied, remote.Throttled, remote.Unavailable, remote.WrongKey, remote.TimedOut, remote.Busy,
	} {
		if k.String() == name {
			return k
		}
	}
	return remote.Failed
}

// failure turns an error of the server into a [remote.Error].
func (e *Error) failure() *remote.Error {
	after := milliseconds(e.RetryAfterMS, maxRetryAfter)
	return &remote.Error{Kind: kindOf(e.Kind), After: after, Err: errors.New(e.Text)}
}

// milliseconds converts a time of the protocol, and limits it to between 0 and most.
func milliseconds(n int64, most time.Duration) time.Duration {
	return time.Duration(min(max(n, 0), most.Milliseconds())) * time.Millisecond
}

// errorOf returns the message for err.
func errorOf(err error) *Error {
	var own *requestError
	var e *remote.Error
	switch {
	case errors.As(err, &own):
		return &Error{Kind: own.kind, Text: own.text}
	case errors.As(err, &e):
		return &Error{Kind: e.Kind.String(), Text: cause(e), RetryAfterMS: e.After.Milliseconds()}
	}
	return &Error{Kind: remote.Failed.String(), Text: err.Error()}
}

// cause returns the text of e without operation, key and kind, which the guard of the client adds again.
func cause(e *remote.Error) string {
	switch {
	case e.Permission != "":
		return "grant " + e.Permission
	case e.Err != nil:
		return e.Err.Error()
	}
	return ""
}

// requestError is an error in a request.
type requestError struct{ kind, text string }

func (e *requestError) Error() string { return e.text }

func malformed(err error) error { return &requestError{KindMalformed, err.Error()} }

// SocketVariable is the environment variable with the number of the file descriptor on which a signer accepts
// connections if the CA starts it. Such a signer exits when its standard input ends.
const SocketVariable = "MAYFLY_SIGNER_FD"
