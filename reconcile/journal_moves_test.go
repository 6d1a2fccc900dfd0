package reconcile_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// move moves journal j with all of its files to another directory.
func (h *harness) move(j int) {
	h.t.Helper()
	files, err := filepath.Glob(h.paths[j] + "*")
	must(h.t, err)
	dir := h.t.TempDir()
	for _, f := range files {
		must(h.t, os.Rename(f, filepath.Join(dir, filepath.Base(f))))
	}
	h.paths[j] = filepath.Join(dir, filepath.Base(h.paths[j]))
}

// expectNothing fails the test if the auditor raised an alarm or could not read everything.
func (c *testAuditor) expectNothing() {
	c.h.t.Helper()
	if diff := cmp.Diff([]string{}, kinds(c.raised)); diff != "" {
		c.h.t.Error(diff)
	}
	if got := c.Warnings(); len(got) > 0 {
		c.h.t.Errorf("warnings %q", got)
	}
}

// G5: a journal that was moved while the CA was stopped is recognised: no merge obligation looks violated because its
// entry was read long ago, and an unintended entry is still found.
func TestMoved(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	a := h.auditor()
	h.issue(0, 0)
	h.issue(0, 0)
	h.publish()
	a.run()
	for range 2 {
		h.stop(0, 0)
		h.move(0)
		h.start(0)
		h.issue(0, 0)
		h.publish()
		a.restart()
		a.run()
		a.expectNothing()
		a.restart() // from the state that has the new path
		a.run()
		a.expectNothing()
	}
	h.signOutsideCA(0, true)
	h.publish()
	a.run()
	if diff := cmp.Diff([]string{"unintended_entry"}, kinds(a.raised)); diff != "" {
		t.Error(diff)
	}
}

// G5: a journal that is added after the entries of its time were read and evicted causes no finding about a log.
func TestLateJournal(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	h.issue(0, 0)
	h.stop(0, 0)
	h.advance(time.Hour)
	h.paths, h.journals, h.signatures = append(h.paths, filepath.Join(t.TempDir(), "journal")), append(h.journals, nil),
		append(h.signatures, 0)
	h.start(1)
	h.issue(1, 0)
	h.publish()
	older, newer := h.paths[0], h.paths[1]
	h.paths = []string{newer}
	a := h.auditor()
	a.run()
	a.expectNothing()
	h.paths = []string{newer, older}
	for range 2 {
		a.restart()
		a.run()
		a.expectNothing()
	}
}

// G5: an auditor that read records at the end of a journal notices when they are removed together with the head file.
func TestRemovedEnd(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	a := h.auditor()
	h.issue(0, 0)
	h.issue(0, 0)
	h.publish()
	a.run()
	h.stop(0, 0)
	data, err := os.ReadFile(h.paths[0])
	must(t, err)
	lines := bytes.SplitAfter(data, []byte("\n"))
	// without the last outcome, the stop, and the empty rest
	must(t, os.WriteFile(h.paths[0], bytes.Join(lines[:len(lines)-3], nil), 0o600))
	must(t, os.Remove(h.paths[0]+".head"))
	h.start(0)
	h.issue(0, 0)
	h.publish()
	for range 2 {
		a.restart()
		a.run()
	}
	if diff := cmp.Diff([]string{"journal_broken"}, kinds(a.raised)); diff != "" {
		t.Error(diff)
	}
}
