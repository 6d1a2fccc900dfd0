package wire

// Permits is the rule about the other end of a socket.
func (a Allowed) Permits(p Peer) error { return a.permits(p) }
