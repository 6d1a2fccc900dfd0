// Package monitor reads and checks transparency logs, as an auditor does: checkpoints or tree heads, tiles,
// entries, and the proof that a log only appends. A [Follower] continues where it stopped before; [Log.Check] checks a
// whole tiled log.
//
// Everything that a log serves is hostile until it is proven: a caller MUST NOT use an entry before a signed head
// covers it.
package monitor
