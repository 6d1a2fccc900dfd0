// Package reconcile compares the journals of a CA with the transparency logs that its certificates are submitted to.
//
// The input is a set of logs (read and verified by package monitor), a set of journals (package journal) and the
// issuing certificates of the CA. The output is a list of findings, each of a kind from a fixed table. The package
// verifies that
//
//   - every log entry under one of the CA's issuing keys has an intent in a journal,
//   - every SCT in a released certificate has its entry in the log (the merge obligation of RFC 6962 §3),
//   - every certificate of the CA in a log of signatures was released according to a journal,
//   - no serial number is used twice,
//   - the records of a journal explain every signature that the CA's process counted.
//
// A log entry without an intent means that an issuing key is used outside of the CA. Such an entry MUST be reported,
// whatever else is wrong or cannot be read.
//
// # Order of reading
//
// Logs are read before journals. The CA writes an intent to disk before it sends the precertificate to a log. A reader
// that reads a log up to a head, and then a journal up to its current end, has therefore read the intent of every entry
// below that head. In the opposite order, every certificate issued between the two reads would look unintended.
//
// # Reading the source
//
// [Config] (config.go) configures an [Auditor] (auditor.go), which audits what is new, again and again; [Run] (run.go)
// audits everything once. Both follow logs (logs.go), read journals (journals.go), add what they read to a correlation
// index (correlation.go, rows.go) and check it (obligations.go, candidates.go). The findings (finding.go) of an Auditor
// become alarms (alarms.go), which stay open until an operator closes them by an order (orders.go). The state of an
// Auditor survives a restart (state.go). Package reconcile/webhook delivers findings to an HTTP server.
package reconcile
