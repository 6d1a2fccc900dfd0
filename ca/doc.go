// Package ca turns a verified identity and a proven key into a certificate: profile, TBSCertificate, lint,
// precertificate, SCTs, certificate, correspondence.
//
// [Authority.Issue] is the only place where the CA's key signs, except for the trial in [New]. It MUST sign nothing
// that has not passed the lint, MUST NOT return a certificate that does not correspond to the logged precertificate,
// and MUST NOT return one that ends after a CA certificate in its chain. After a failure its serial number is not used
// again, and no second certificate is made for a precertificate.
//
// A caller MUST have verified the identity and the possession of the key. This package does not parse SCTs: its [Log]
// MUST have verified them.
package ca
