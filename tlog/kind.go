package tlog

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"path"

	"github.com/transparency-dev/tessera"

	"github.com/mayfly-ca/mayfly/monitor"
)

// Kind is what a log contains and how its checkpoints are signed.
type Kind int

const (
	// StaticCT is a Certificate Transparency log: its entries are those of c2sp.org/static-ct-api, and a checkpoint
	// has the signature of an RFC 6962 tree head. Its key is ECDSA with P-256.
	StaticCT Kind = iota
	// Rekor is a log of opaque entries (c2sp.org/tlog-tiles) whose checkpoints are plain notes (c2sp.org/signed-note),
	// as those of Rekor v2. Its key is ECDSA with P-256 unless another one is configured: more clients verify it.
	Rekor
)

// label is the name of the first shard, and the beginning of the names of the others.
func (k Kind) label() string {
	if k == Rekor {
		return "rekor"
	}
	return "embedded"
}

// setting is the block of the configuration.
func (k Kind) setting() string {
	if k == Rekor {
		return "rekor"
	}
	return "ct.embedded"
}

// originOf returns the origin of a shard of the log with an origin. Clients of Rekor take the host name of the log's
// URL for the origin, so that the shards differ only in their keys.
func (k Kind) originOf(origin, name string) string {
	if k == Rekor {
		return origin
	}
	return path.Join(origin, name)
}

// newKey makes a key for a new shard.
func (Kind) newKey() (crypto.Signer, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// keyProblem describes why a key cannot be that of a log of the kind; empty if the key can be.
func (k Kind) keyProblem(key crypto.PublicKey) string {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if k == Rekor && key.Curve != elliptic.P224() || key.Curve == elliptic.P256() {
			return ""
		}
	case ed25519.PublicKey:
		if k == Rekor {
			return ""
		}
	}
	if k == Rekor {
		return "the file has no Ed25519 or ECDSA key"
	}
	return "the file has no P-256 key"
}

// logID returns the ID of a log: RFC 6962 §3.2, or the SHA-256 from which the key ID of the note is cut.
func (k Kind) logID(origin string, key crypto.PublicKey) ([32]byte, error) {
	return monitor.LogID(k.Format(), origin, key)
}

// Format is how package monitor reads the log.
func (k Kind) Format() monitor.Format {
	if k == Rekor {
		return monitor.Opaque
	}
	return monitor.Certificates
}

// options adds the layout of the kind to the options of the storage.
func (k Kind) options(o *tessera.AppendOptions) *tessera.AppendOptions {
	if k == StaticCT {
		return o.WithCTLayout()
	}
	return o
}
