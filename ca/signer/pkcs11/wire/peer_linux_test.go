package wire_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11/wire"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
)

// nobody is a user that the tests do not run as.
const nobody = 65534

// asNobody runs f in a thread of another user, which ends with it. Only the superuser can do so.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only the superuser can become another user")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and no unlock: the thread has lost its user
		// setresuid of package syscall would change all threads
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, ^uintptr(0)); errno != 0 {
			t.Errorf("setresuid: %v", errno)
			return
		}
		f()
	}()
	<-done
}

// A user who is not allowed gets no answer, even if the socket can be opened, and a socket of such a user is not used.
func TestOtherUsers(t *testing.T) {
	t.Parallel()
	path := socket(t)
	if err := os.Chmod(filepath.Dir(path), 0o777); err != nil { //nolint:gosec // the other user must reach the socket
		t.Fatal(err)
	}
	k := newKey(t)
	start(t, signerOf(map[string]key{"k": k}), path)
	if err := os.Chmod(path, 0o666); err != nil { //nolint:gosec // see above
		t.Fatal(err)
	}
	call := func() error {
		c := &wire.Client{Path: path, Allowed: wire.Allowed{UIDs: []int{nobody}}}
		defer c.Close() //nolint:errcheck // nothing is written
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := c.Call(ctx, wire.Request{Op: wire.OpHealth, Key: "k"})
		return err
	}
	if err := call(); err != nil {
		t.Errorf("the superuser: %v", err)
	}
	asNobody(t, func() {
		if err := call(); kind(err) != remote.Unavailable || !strings.Contains(err.Error(), "closed the connection") {
			t.Errorf("a user who is not allowed gets %v", err)
		}
	})
	fake := path + "2"
	asNobody(t, func() {
		l, err := net.Listen("unix", fake)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = l.Close() })
	})
	_, err := connect(t, fake).Sign(soon(t), "k", toSign(k.Signer.Public()))
	if kind(err) != remote.Denied || !strings.Contains(err.Error(), "belongs to another program") {
		t.Errorf("a socket of another user: %v", err)
	}
}
