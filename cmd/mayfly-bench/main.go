// Command mayfly-bench measures how many certificates a CA issues, and the cost of each. It sends load to a running CA,
// or starts "mayfly serve" on loopback for the run. It is not part of the CA's binary.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, cancel) // from then on a second signal ends the process at once
	status := cli.Execute(ctx, newBench(&cli.Common{}), os.Args[1:],
		cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	cancel()
	os.Exit(status)
}
