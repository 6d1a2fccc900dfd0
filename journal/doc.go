// Package journal is the journal: every decision of the CA, allow and deny, as one record each, in the order in which they were
// made.
//
// A certificate has two records. The intent MUST be durable before the CA's key signs anything, the outcome before the
// certificate leaves: a journal that cannot be written means no certificate. Records are chained by their digests, so that an
// edit, a cut or another order is found by whoever reads the journal ([Record]).
//
// A journal is a file, and closed files before it. One goroutine writes whatever waits as one group with one sync. After a failed
// write nothing is acknowledged before the file was compared with what was acknowledged. Copies follow the file.
//
// A token, a proof of possession or a private key MUST NOT be given to this package.
package journal
