// Package ctlog turns a precertificate into verified SCTs (RFC 6962 §3): several logs, one policy.
//
// A [Set] submits to several logs at once, moves on to another log when one fails or is slow, tries a log again that
// was only busy, and stops when the policy is met, when its budget is spent, or when no log is left to try. Every SCT
// is verified here: version, log ID, signature with the pinned key over this very precertificate, and time. A caller
// therefore MUST NOT verify again, and MUST NOT embed an SCT that [Set.Submit] did not return.
//
// The timestamps of SCTs also reveal that the clock of this machine is wrong: [Set.Submit] then refuses, and
// [Set.Clock] returns the reason.
//
// A log whose key is not yet published is detached: it receives in the background what the other logs have accepted.
//
// A [Submitter] MUST return soon after its context ends, and MUST be safe for use by several goroutines. Package remote
// has one for a log behind HTTP, package embedded one for a log in this process.
package ctlog
