// Package ca turns a verified identity and a proven key into a certificate: profile, TBSCertificate, lint, precertificate,
// SCTs, certificate, correspondence.
//
// [Authority.Issue] is the only place where the CA's key signs, but for the one trial in [New]. It MUST sign nothing that
// has not passed the lint, MUST NOT return a certificate that does not correspond to the precertificate that the logs took,
// and MUST NOT return one that outlives any CA in its chain. A failure after the precertificate burns the serial number: it
// is never used again and no second certificate is made for it.
//
// A caller MUST have verified the identity and the possession of the key. SCTs are opaque to this package: the [Log] that it
// is given MUST have verified them.
package ca
