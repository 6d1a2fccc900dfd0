// Package find answers who signed an artifact and what an identity signed, from the logs of this CA: the certificates
// in its Certificate Transparency log and the signatures in its log of signatures (Rekor).
//
// The answers come from an [Index], a file that [Index.Run] keeps up to date and that can be removed at any time: it is
// made again from the logs. An entry MUST be proven to be in its log before it is in the index, and MUST be compared
// with the proven one whenever it is read again for an answer.
package find
