package journal_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/journal"
)

// Subjects as digests: the plain text is nowhere, the same subject has the same digest over restarts, and the salt
// finds it.
func TestDigests(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	c := journal.Config{File: path, Subjects: journal.SubjectsDigest}
	for range 2 {
		j := open(t, c, journal.Options{})
		must(t, j.Append(t.Context(), intent(1)))
		shut(t, j, 0)
	}
	salt, err := c.ReadSalt()
	must(t, err)
	entries := all(t, path)
	for _, i := range []int{1, 4} {
		if e := entries[i]; e.Subject != journal.SubjectDigest(salt, "alice") ||
			e.SAN != journal.SubjectDigest(salt, "alice@example.com") || !strings.HasPrefix(e.SAN, "hmac-sha256:") {
			t.Errorf("%+v", e.Record)
		}
	}
	data, err := os.ReadFile(path)
	must(t, err)
	if bytes.Contains(data, []byte("alice")) {
		t.Error("the plain subject is in the journal")
	}
	if st, err := os.Stat(path + ".salt"); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	must(t, os.WriteFile(path+".salt", nil, 0o600))
	if _, err := journal.Open(c, journal.Options{}); err == nil {
		t.Error("a lost salt is replaced in silence")
	}
}
