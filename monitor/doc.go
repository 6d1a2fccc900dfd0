// Package monitor reads Certificate Transparency logs: checkpoints or tree heads, tiles, entries, and proofs that a log is
// append-only. A [Follower] continues where it stopped, as a monitor of RFC 6962 §5.3 does; [Log.Check] verifies all files of a
// static-ct log.
//
// All data from a log is untrusted until it is verified: a caller MUST NOT use an entry before a signed head covers it.
package monitor
