package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/testkit/site"
)

// B1: the auditor quarantines a log of the current configuration even if it cannot read the log.
func TestQuarantineReachesCurrentLogs(t *testing.T) {
	t.Parallel()
	l := site.New(t, 1)
	sys := start(t, l, l.Config(t, "  logs:\n    - {%0}\n"))
	n := quietNode("")
	n.started = sys.config
	a, err := newAuditor(n)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(l.Dir, "ct0.pem")); err != nil {
		t.Fatal(err)
	}
	a.install(sys)
	a.quarantine("log0", "an entry is missing")
	if st := sys.logs.Status()[0]; st.OK {
		t.Errorf("status %+v", st)
	}
	if h := health(t, sys, "ct"); h.OK {
		t.Errorf("ready although the only log is quarantined: %+v", h)
	}
}

// G6: a CA that started without logs has no auditor. When a reload adds logs, the report says that a restart is needed.
func TestReloadWithFirstLogs(t *testing.T) {
	t.Parallel()
	l := site.New(t, 1)
	sys := start(t, l, l.Config(t, "  none: {reason: no network}\n"))
	n := quietNode(filepath.Join(l.Dir, "mayfly.yaml"))
	n.started = sys.config
	var err error
	if n.auditor, err = newAuditor(n); err != nil || n.auditor != nil {
		t.Fatalf("auditor %v, %v", n.auditor, err)
	}
	n.current.Store(sys)
	l.Config(t, "  logs:\n    - {%0}\n")
	if _, waiting, err := n.prepare(t.Context()); err != nil || len(waiting) != 1 ||
		!strings.Contains(waiting[0].String(), "mayfly.yaml:") ||
		!strings.Contains(waiting[0].Text, "audit.reconcile: ") {
		t.Errorf("%v need a restart, %v", waiting, err)
	}
}
