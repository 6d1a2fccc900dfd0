// Package ceremony makes the certificates of a CA: a plan goes in, certificates and a transcript come out. Nothing in
// it reads a terminal, a flag or YAML.
//
// A certificate is made in four steps: the TBSCertificate is built under a throwaway key of the issuer's kind; it is
// parsed and linted against its [Profile] and the requirements of [ca.Examine]; the issuer's key signs exactly those
// bytes; the certificate is parsed and linted again, with its signature. A key MUST sign nothing that was not linted,
// and a certificate that fails the second lint MUST NOT be written.
//
// Results are values: [Result.Write] is the only function that writes. It MUST NOT replace a file, it finds the files
// that exist before it writes the first one, and it writes the chain last: where a chain is, its keys and its
// transcript are. After an error the files that it made are removed; after a crash those that are there are whole.
//
// A [Transcript] has every input, digest and output of one ceremony, no key and no password. [Transcript.Replay] builds
// each TBSCertificate of it again and compares the bytes. No error, result or transcript may contain a byte of a
// private key or of a password.
package ceremony
