// Package ceremony makes the certificates of a CA: a plan goes in, certificates and a transcript come out. The package
// reads neither a terminal nor a flag nor YAML.
//
// A certificate is made in four steps: the TBSCertificate is built and signed with a temporary key of the same kind as
// the issuer's key; it is parsed and linted against its [Profile] and the requirements of [ca.Examine]; the issuer's
// key signs exactly those bytes; the certificate is parsed and linted again, with its signature. A key MUST NOT sign a
// TBSCertificate that was not linted, and a certificate that fails the second lint MUST NOT be written.
//
// Results are values: [Result.Write] is the only function that writes files. It MUST NOT replace a file, and it checks
// that no output exists before it writes the first one. It writes the chain last, so that the keys and the transcript
// exist if the chain does. After an error, it removes the files that it wrote; after a crash, each existing file is
// complete.
//
// A [Transcript] has every input, digest and output of one ceremony, but no private key and no password.
// [Transcript.Replay] builds each of its TBSCertificates again and compares the bytes. No error, result or transcript
// may contain a byte of a private key or of a password.
package ceremony
