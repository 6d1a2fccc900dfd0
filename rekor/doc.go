// Package rekor is a Rekor v2 transparency log for signatures: its write API over REST and gRPC, as
// sigstore/rekor-tiles has it, in front of an append-only log of bytes.
//
// In goes a request with a digest or a DSSE envelope, a signature, and the key or certificate that verifies it. Out
// goes a TransparencyLogEntry of Sigstore's protobuf-specs: the entry in its canonical form (JSON, RFC 8785), its
// index, and the proof of its inclusion in a published checkpoint. Entries are of the kind hashedrekord 0.0.2, also
// those of requests with an envelope, which rekor-tiles does not take any more and released clients still send.
//
// An entry MUST NOT be logged before its signature is verified with the key or certificate in it, by the algorithm that
// it names; what is logged is what was verified. If only entries of this certificate authority are admitted, the
// signature MUST have one of its certificates. An answer MUST have a proof that was verified, and MUST NOT be given
// before the journal has its record. The log itself ([Log]) is not part of this package: package tlog keeps it on disk.
package rekor
