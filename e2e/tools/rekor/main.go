// Rekor-backend is the storage of a Rekor v1 server for the end-to-end tests: Trillian's log server and sequencer in
// one process, with Trillian's storage in memory. It prints the address of the log server and the ID of an empty tree.
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/extension"
	"github.com/google/trillian/quota"
	"github.com/google/trillian/storage/memory"
	"github.com/google/trillian/testonly/integration"
	"google.golang.org/protobuf/types/known/durationpb"
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	integration.SequencerInterval = 100 * time.Millisecond
	trees := memory.NewTreeStorage()
	env, err := integration.NewLogEnvWithRegistry(ctx, 1, extension.Registry{
		AdminStorage: memory.NewAdminStorage(trees),
		LogStorage:   memory.NewLogStorage(trees, nil),
		QuotaManager: quota.Noop(),
	})
	if err != nil {
		return fmt.Errorf("trillian: %w", err)
	}
	tree, err := env.Admin.CreateTree(ctx, &trillian.CreateTreeRequest{Tree: &trillian.Tree{
		TreeState: trillian.TreeState_ACTIVE, TreeType: trillian.TreeType_LOG,
		MaxRootDuration: durationpb.New(time.Hour),
	}})
	if err != nil {
		return fmt.Errorf("create the tree: %w", err)
	}
	if _, err := env.Log.InitLog(ctx, &trillian.InitLogRequest{LogId: tree.TreeId}); err != nil {
		return fmt.Errorf("initialise the tree: %w", err)
	}
	fmt.Printf("ready %s %d\n", env.Address, tree.TreeId)
	<-ctx.Done()
	select {} // until it is killed
}
