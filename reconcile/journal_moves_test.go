package reconcile_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// move moves journal j with all its files into another directory.
func (w *world) move(j int) {
	w.t.Helper()
	files, err := filepath.Glob(w.paths[j] + "*")
	must(w.t, err)
	dir := w.t.TempDir()
	for _, f := range files {
		must(w.t, os.Rename(f, filepath.Join(dir, filepath.Base(f))))
	}
	w.paths[j] = filepath.Join(dir, filepath.Base(w.paths[j]))
}

// quiet fails the test if the auditor has raised something, or could not read everything.
func (c *continuous) quiet() {
	c.w.t.Helper()
	if diff := cmp.Diff([]string{}, kinds(c.raised)); diff != "" {
		c.w.t.Error(diff)
	}
	if got := c.Warnings(); len(got) > 0 {
		c.w.t.Errorf("warnings %q", got)
	}
}

// G5: a journal that was moved while the CA was stopped is the one that was read before: no promise in it looks broken because its entry
// was read long ago, and a thief is still seen.
func TestMoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	a := w.auditor()
	w.issue(0, 0)
	w.issue(0, 0)
	w.publish()
	a.tick()
	for range 2 {
		w.stop(0, 0)
		w.move(0)
		w.start(0)
		w.issue(0, 0)
		w.publish()
		a.restart()
		a.tick()
		a.quiet()
		a.restart() // from the state that was made at the new place
		a.tick()
		a.quiet()
	}
	theft(w, 0, true)
	w.publish()
	a.tick()
	if diff := cmp.Diff([]string{"unintended_entry"}, kinds(a.raised)); diff != "" {
		t.Error(diff)
	}
}

// G5: a journal that is named only after the entries of its time were read and forgotten accuses no log.
func TestLateJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	w.issue(0, 0)
	w.stop(0, 0)
	w.pass(time.Hour)
	w.paths, w.journals, w.made = append(w.paths, filepath.Join(t.TempDir(), "journal")), append(w.journals, nil), append(w.made, 0)
	w.start(1)
	w.issue(1, 0)
	w.publish()
	older, newer := w.paths[0], w.paths[1]
	w.paths = []string{newer}
	a := w.auditor()
	a.tick()
	a.quiet()
	w.paths = []string{newer, older}
	for range 2 {
		a.restart()
		a.tick()
		a.quiet()
	}
}

// G5: records that were cut off the end of a journal, with what says so in its directory, are missed by the auditor who read them.
func TestCutEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	a := w.auditor()
	w.issue(0, 0)
	w.issue(0, 0)
	w.publish()
	a.tick()
	w.stop(0, 0)
	data, err := os.ReadFile(w.paths[0])
	must(t, err)
	lines := bytes.SplitAfter(data, []byte("\n"))
	must(t, os.WriteFile(w.paths[0], bytes.Join(lines[:len(lines)-3], nil), 0o600)) // the last outcome and the stop, and what is behind the last line feed
	must(t, os.Remove(w.paths[0]+".head"))
	w.start(0)
	w.issue(0, 0)
	w.publish()
	for range 2 {
		a.restart()
		a.tick()
	}
	if diff := cmp.Diff([]string{"journal_broken"}, kinds(a.raised)); diff != "" {
		t.Error(diff)
	}
}
