// Package loglist describes Certificate Transparency logs: one description that every package shares, whether it
// submits to a log, reads it, publishes its key, or verifies its SCTs.
//
// A [Log] is plain data. It MAY be incomplete: a package states which fields it needs. Code that makes a Log from a
// file or a configuration MUST check its key with [CheckKey]. The package opens no files and no connections.
package loglist

import (
	"crypto"
	"time"
)

// Log describes one CT log.
type Log struct {
	// Name identifies the log in messages, metrics and readiness reports of one configuration.
	Name string
	// URL is the submission prefix, to which /ct/v1/add-pre-chain is appended (RFC 6962 §4).
	URL string
	// MonitoringURL is the prefix of the read path of a static-ct log (c2sp.org/static-ct-api).
	MonitoringURL string
	// Origin is the log's name in its checkpoints (c2sp.org/tlog-checkpoint); a log of RFC 6962 has none.
	Origin string
	// Operator is the organization that runs the log; empty if unknown.
	Operator string
	// Key verifies the log's SCTs, tree heads and checkpoints.
	Key crypto.PublicKey
	// Window is the log's validity: verifiers reject an SCT from outside it.
	Window
}

// ID returns the log ID: the SHA-256 of the key's SubjectPublicKeyInfo (RFC 6962 §3.2).
func (l Log) ID() ([32]byte, error) { return ID(l.Key) }

// Window is a period of time: NotBefore belongs to it, NotAfter does not. A zero time is no bound.
type Window struct {
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
}

// Contains reports whether t lies in the window.
func (w Window) Contains(t time.Time) bool { return !w.opensAfter(t) && !w.Closed(t) }

// Covers reports whether both now and end lie in the window: the log may then be asked now for an SCT of a certificate
// that expires at end.
func (w Window) Covers(now, end time.Time) bool { return w.Contains(now) && w.Contains(end) }

// Closed reports whether the window has closed at t.
func (w Window) Closed(t time.Time) bool { return !w.NotAfter.IsZero() && !t.Before(w.NotAfter) }

func (w Window) opensAfter(t time.Time) bool { return !w.NotBefore.IsZero() && t.Before(w.NotBefore) }

// Intersect returns the part of w that lies in other.
func (w Window) Intersect(other Window) Window {
	if other.NotBefore.After(w.NotBefore) {
		w.NotBefore = other.NotBefore
	}
	if w.NotAfter.IsZero() || !other.NotAfter.IsZero() && other.NotAfter.Before(w.NotAfter) {
		w.NotAfter = other.NotAfter
	}
	return w
}
