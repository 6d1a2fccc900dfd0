// Package monitor reads Certificate Transparency logs, as an auditor does: checkpoints or tree heads, entries, and the proof
// that a log only ever appends.
//
// Whatever a log serves is hostile until it is proven: a caller MUST NOT believe an entry before a signed head covers it.
package monitor
