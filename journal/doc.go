// Package journal records the decisions of the CA, allow and deny, one record for each, in the order in which they were
// made.
//
// What goes in are records without a number ([Journal.Append], [Journal.Note]). What comes out is a file of lines that
// are linked by their digests ([Record]), so that a reader finds a record that was changed, removed or moved
// ([Verify]).
//
// A certificate has two records. The intent MUST be durable before the CA key signs anything, the outcome before the
// certificate leaves: without a journal that can be written there is no certificate.
//
// The newest records are in one file, older ones in closed files (segments) beside it. One goroutine writes the records
// that wait as one group with one sync. After a failed write no record is acknowledged before the file was compared
// with what was acknowledged. Package ship copies the file elsewhere.
//
// A token, a proof of possession or a private key MUST NOT be given to this package.
package journal
