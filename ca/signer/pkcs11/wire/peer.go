package wire

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"
)

// Peer is the user of the process that connected to a socket or that listens on it, as the operating system reports it.
type Peer struct{ UID, GID, PID int }

// Allowed says which users may be the peer. The superuser is always allowed, because it can do everything anyway.
type Allowed struct {
	UIDs, GIDs []int
}

// check returns an error if the peer is not allowed.
func (a Allowed) check(c net.Conn) error {
	socket, ok := c.(*net.UnixConn)
	if !ok {
		return errors.New("not a Unix socket")
	}
	p, err := peerOf(socket)
	if err != nil {
		return err
	}
	return a.permits(p)
}

func (a Allowed) permits(p Peer) error {
	if p.UID == 0 {
		return nil
	}
	for _, id := range a.UIDs {
		if id == p.UID {
			return nil
		}
	}
	for _, id := range a.GIDs {
		if id == p.GID {
			return nil
		}
	}
	return fmt.Errorf("process %d of user %s, group %d, is not allowed", p.PID, name(p.UID), p.GID)
}

func name(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return fmt.Sprintf("%s (%d)", u.Username, uid)
	}
	return strconv.Itoa(uid)
}

// Own allows the user of this process.
func Own() Allowed { return Allowed{UIDs: []int{os.Geteuid()}} }

// User returns the numeric ID of a user that is given by name or number.
func User(text string) (int, error) {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return int(n), nil
	}
	u, err := user.Lookup(text)
	if err != nil {
		return 0, fmt.Errorf("this machine has no user %q", text)
	}
	return strconv.Atoi(u.Uid)
}

// Group returns the numeric ID of a group that is given by name or number.
func Group(text string) (int, error) {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(text)
	if err != nil {
		return 0, fmt.Errorf("this machine has no group %q", text)
	}
	return strconv.Atoi(g.Gid)
}
