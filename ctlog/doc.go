// Package ctlog turns a precertificate into verified SCTs (RFC 6962 §3): several logs, one policy.
//
// A [Set] asks several logs at once, moves on to another log when one fails or is slow, asks a log again that was only busy, and
// stops when the policy is met, when its budget is spent, or when nobody is left to ask. What comes back is checked here, whoever
// sent it: version, log ID, signature with the pinned key over this very precertificate, and time. A caller therefore MUST
// NOT verify again, and MUST NOT embed an SCT that did not come out of [Set.Submit].
//
// The times of SCTs are also how we learn that our own clock is wrong: then [Set.Submit] refuses, and [Set.Clock] says why.
//
// A log whose key is not published yet is a member that is detached: it gets what the others have taken, in the background.
//
// [Remote] is a log behind HTTP. An answer of a log is hostile until it is verified: it is read up to a limit, redirects are
// refused, and no text of a log reaches a client of ours.
//
// A [Submitter] MUST return soon after its context ends, and MUST be safe for use by several goroutines.
package ctlog
