// Prepare builds the programs that the end-to-end tests run, with one line of progress for each, so that "go test"
// finds all of them in the cache. Run it from the e2e folder.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/mayfly-ca/mayfly/e2e/internal/binaries"
	"github.com/mayfly-ca/mayfly/e2e/internal/matrix"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := prepare(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
}

func prepare(ctx context.Context) error {
	b, err := binaries.New(".", os.Stderr)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "e2e: programs are kept in", b.Cache())
	if _, err := b.All(ctx); err != nil {
		return err
	}
	if err := matrix.Install(ctx, os.Stderr, matrix.Operations()); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: the tests that need these will fail:", err)
	}
	fmt.Fprintln(os.Stderr, "e2e: building mayfly from the tree ...")
	_, err = b.Mayfly(ctx)
	return err
}
