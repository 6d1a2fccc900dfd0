package embedded

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// rightEdge errs when a file is missing or damaged that the next entry builds on: the tiles that are not full, and the entries beside
// them. They have to give the root that the storage has kept. No other file is read when an entry is added.
func (l *Log) rightEdge(ctx context.Context) error {
	err := l.readEdge(ctx)
	if err != nil && ctx.Err() == nil {
		err = l.readEdge(ctx) // the tree may have grown over it
	}
	if err != nil {
		return fmt.Errorf("%w; restore the file from a copy of the directory (\"mayfly log fsck\" finds what else is wrong)", err)
	}
	return nil
}

func (l *Log) readEdge(ctx context.Context) error {
	data, err := os.ReadFile(filepath.Join(l.dir, stateDir, treeFile))
	if err != nil {
		return err
	}
	t, err := parseTree(data)
	if err != nil || t.Size == 0 {
		return err
	}
	root, err := l.tiles.Edge(ctx, t.Size)
	if err != nil {
		return fmt.Errorf("%s: %w", l.dir, err)
	}
	if !bytes.Equal(root, t.Root) {
		return fmt.Errorf("the newest tiles in %s do not give the root of the tree's %d entries", filepath.Join(l.dir, "tile"), t.Size)
	}
	return nil
}
