package node

import (
	"context"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/testkit/site"
)

// G3 // G4: a configuration takes over only when the journal says so: if that cannot be written, the one before stays
// in force.
func TestReloadIsJournalled(t *testing.T) {
	t.Parallel()
	l := site.New(t, 1)
	sys := start(t, l, l.Config(t, "  logs:\n    - {%0}\n"))
	j, err := journal.Open(journal.Config{File: filepath.Join(l.Dir, "journal.jsonl")}, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(context.Background(), 0); err != nil { // from here on it takes nothing
		t.Fatal(err)
	}
	n := quietNode(filepath.Join(l.Dir, "mayfly.yaml"))
	n.started, n.journal = sys.config, processJournal{journal: j, signatures: new(atomic.Int64)}
	n.current.Store(sys)
	n.reload(t.Context(), "a test")
	if n.current.Load() != sys || n.generation != 0 {
		t.Error("a reload that the journal does not have is in force")
	}
	if text, _ := n.trouble.Load().(string); !strings.Contains(text, "the reload was not written") {
		t.Errorf("readiness says %q", text)
	}
}
