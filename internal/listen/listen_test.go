package listen

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
)

func TestOpen(t *testing.T) {
	t.Parallel()
	first, err := Open("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	_, err = Open(first.Addr().String())
	if e, ok := errors.AsType[*Error](err); !ok || !strings.Contains(e.Error(), "used by another program") ||
		!strings.HasPrefix(e.Fix(), "stop that program") {
		t.Errorf("%v", err)
	}
}

func TestError(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"no permission to listen on a:1": syscall.EACCES,
		"does not have the address a:1":  syscall.EADDRNOTAVAIL,
		"the host of a:1 is unknown":     &net.DNSError{},
		"input/output error":             syscall.EIO,
	} {
		e := &Error{"a:1", err}
		if !strings.Contains(e.Error(), want) || e.Fix() == "" || !errors.Is(e, err) {
			t.Errorf("%q, want %q", e.Error(), want)
		}
	}
}
