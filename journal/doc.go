// Package journal records the decisions of the CA, allow and deny, one record for each, in the order in which they were
// made.
//
// The input is records without a number ([Journal.Append], [Journal.Note]). The output is a file of lines that are
// linked by their digests ([Record]), so that a reader detects a record that was changed, removed or moved ([Verify]).
//
// A certificate has two records. The intent MUST be durable before the CA key signs anything, the outcome before the
// certificate is released: no certificate is issued while the journal cannot be written.
//
// The newest records are in one file, older ones in closed files (segments) beside it. One goroutine writes all waiting
// records as one group with one sync. After a failed write, no record is acknowledged until the file has been compared
// with the acknowledged records. Package ship sends copies elsewhere.
//
// A token, a proof of possession or a private key MUST NOT be given to this package.
package journal
