//go:build cgo

// Command mayfly-hsm signs with a key in a hardware security module, for a CA in another process. It loads the PKCS#11
// library of the module, and serves signatures over a Unix socket with the protocol of ca/signer/pkcs11/wire.
//
// mayfly-hsm logs in once, keeps a pool of sessions, verifies each signature before it returns the signature, and
// reconnects after the token was removed. It does not send a PIN again that the token refused. If a call of the library
// does not return within its limit, the process exits, because there is no other way to end such a call; the CA or the
// service manager restarts the process. It is the only program of this repository that needs cgo.
package main

import (
	"os"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
)

// exitHung is the exit status if a call of the library does not return.
const exitHung = 4

func main() { cli.Main(newRoot(os.Exit)) }
