package tlog

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/fault"
)

// rightEdge returns an error if a file is missing or damaged on which the next entry depends: the partial tiles and
// their entries, which must give the root that the storage has recorded. No other file is read when an entry is added.
func (l *Log) rightEdge(ctx context.Context) error {
	err := l.readEdge(ctx)
	if err != nil && ctx.Err() == nil {
		err = l.readEdge(ctx) // the tree may have grown meanwhile
	}
	if err != nil {
		return fault.Cure(err,
			"restore the file from a copy of the directory (\"mayfly log fsck\" finds other damage)")
	}
	return nil
}

func (l *Log) readEdge(ctx context.Context) error {
	t, err := readTree(l.dir)
	if err != nil || t.Size == 0 {
		return err
	}
	root, err := l.tiles.Edge(ctx, t.Size)
	if err != nil {
		return fmt.Errorf("%s: %w", l.dir, err)
	}
	if !bytes.Equal(root, t.Root) {
		return fmt.Errorf("the newest tiles in %s do not give the root of the tree of %d entries",
			filepath.Join(l.dir, "tile"), t.Size)
	}
	return nil
}
