package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/testkit/site"
)

// B1: what the auditor finds out of a log is told to the logs in force, also where the auditor cannot follow them.
func TestBenchReachesLogsInForce(t *testing.T) {
	t.Parallel()
	l := site.New(t, 1)
	sys := start(t, l, l.Config(t, "  logs:\n    - {%0}\n"))
	n := quietNode("")
	n.started = sys.config
	a, err := newAuditing(n)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(l.Dir, "ct0.pem")); err != nil {
		t.Fatal(err)
	}
	a.install(sys)
	a.quarantine("log0", "it forgot an entry")
	if st := sys.logs.Status()[0]; st.OK {
		t.Errorf("status %+v", st)
	}
	if h := health(t, sys, "ct"); h.OK {
		t.Errorf("ready without a log: %+v", h)
	}
}

// G6: a CA that began without logs has no auditor. Logs that come by a reload are not audited in silence.
func TestReloadIntoLogsWantsAuditor(t *testing.T) {
	t.Parallel()
	l := site.New(t, 1)
	sys := start(t, l, l.Config(t, "  none: {reason: an island}\n"))
	n := quietNode(filepath.Join(l.Dir, "mayfly.yaml"))
	n.started = sys.config
	var err error
	if n.auditing, err = newAuditing(n); err != nil || n.auditing != nil {
		t.Fatalf("auditor %v, %v", n.auditing, err)
	}
	n.current.Store(sys)
	l.Config(t, "  logs:\n    - {%0}\n")
	if _, waiting, err := n.prepare(t.Context()); err != nil || len(waiting) != 1 || !strings.Contains(waiting[0].String(), "mayfly.yaml:") || !strings.Contains(waiting[0].Text, "audit.reconcile: ") {
		t.Errorf("%v waits for a restart, %v", waiting, err)
	}
}
