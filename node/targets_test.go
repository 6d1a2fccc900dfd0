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

// G3 // G4: a configuration takes effect only after its journal record is written. If the record cannot be written, the
// previous configuration stays in force.
func TestReloadIsJournalled(t *testing.T) {
	t.Parallel()
	l := site.New(t, 1)
	sys := start(t, l, l.Config(t, "  logs:\n    - {%0}\n"))
	j, err := journal.Open(journal.Config{File: filepath.Join(l.Dir, "journal.jsonl")}, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(context.Background(), 0); err != nil { // a closed journal refuses records
		t.Fatal(err)
	}
	n := quietNode(filepath.Join(l.Dir, "mayfly.yaml"))
	n.started, n.journal = sys.config, processJournal{journal: j, signatures: new(atomic.Int64)}
	n.current.Store(sys)
	n.reload(t.Context(), "a test")
	if n.current.Load() != sys || n.generation != 0 {
		t.Error("a reload without a journal record is in force")
	}
	if text, _ := n.reloadProblem.Load().(string); !strings.Contains(text,
		"the journal record of the reload was not written") {
		t.Errorf("the reported problem is %q", text)
	}
}
