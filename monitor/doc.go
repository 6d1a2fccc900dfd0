// Package monitor reads Certificate Transparency logs: checkpoints or tree heads, tiles, entries, and the proof that a log only ever
// appends. A [Follower] reads on where it stopped, as an auditor does; [Log.Check] looks at everything that a static-ct log has.
//
// Whatever a log serves is hostile until it is proven: a caller MUST NOT believe an entry before a signed head covers it.
package monitor
