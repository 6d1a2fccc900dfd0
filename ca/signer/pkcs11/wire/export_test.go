package wire

// Permits exports the check of a peer.
func (a Allowed) Permits(p Peer) error { return a.permits(p) }
