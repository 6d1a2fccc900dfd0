//go:build cgo

// Command mayfly-hsm signs with a key in a hardware security module, for a CA in another process. It loads the PKCS#11
// library of the module, and serves signatures over a Unix socket with the protocol of ca/signer/pkcs11/wire.
//
// It logs in once, keeps a pool of sessions, verifies each signature before it leaves, and connects anew after the
// token was away. A PIN that the token refused is not tried again. A call of the library that does not return within
// its limit ends the process, because nothing else ends such a call: whatever started the process starts it again. It
// is the only program of this repository that needs cgo.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
)

// exitHung is the exit status after a call of the library that did not return.
const exitHung = 4

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, cancel) // from then on a second signal ends the process at once
	status := cli.Execute(ctx, newRoot(os.Exit), os.Args[1:],
		cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	cancel()
	os.Exit(status)
}
