package backup_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/backup"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/tlog"
)

// What is written for people: the content of the archive, what is not in it, and commands to copy. Names of files and
// messages cannot control a terminal.
func TestReports(t *testing.T) {
	t.Parallel()
	begun := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	bare := backup.Manifest{Begun: begun, Ended: begun.Add(time.Second)}
	full := bare
	full.Logs = []backup.Log{
		{Setting: "ct.embedded", Shards: []tlog.Copied{
			{Origin: "ca.test/ct", Size: 1}, {Origin: "ca.test/ct/2", Size: 2},
		}},
		{Setting: "rekor", Shards: []tlog.Copied{{Origin: "ca.test"}}},
	}
	full.Journal = &journal.Copied{Seq: 7}
	full.Environment = []string{"ONE", "TWO"}
	full.Omitted = []string{"/a/\x1b[2Jpipe: it is not a regular file"}
	const describedBare = "  written  2026-11-30T12:00:00Z to 2026-11-30T12:00:01Z\n"
	const described = "  ct.embedded  ca.test/ct, 1 entry\n" +
		"  ct.embedded  ca.test/ct/2, 2 entries\n" +
		"  rekor        ca.test, 0 entries\n" +
		"  journal      up to record 7\n" +
		"  written      2026-11-30T12:00:00Z to 2026-11-30T12:00:01Z\n"
	const missing = "not in the archive: /a/\\x1b[2Jpipe: it is not a regular file\n" +
		"The secrets in these environment variables are not in the archive: ONE, TWO.\n"
	const next = "mayfly doctor --config '/a b/mayfly.yaml'\nmayfly serve --config '/a b/mayfly.yaml'\n"
	restored := func(m backup.Manifest, goesOn bool, unverified ...string) func(*bytes.Buffer) error {
		r := &backup.Restored{
			Manifest: m, Config: "/a b/mayfly.yaml", Continue: goesOn, Files: 2, Elsewhere: 1, Unverified: unverified,
		}
		return func(w *bytes.Buffer) error { return r.Write(w) }
	}
	for name, row := range map[string]struct {
		write func(*bytes.Buffer) error
		want  string
	}{
		"a file": {
			func(w *bytes.Buffer) error { return full.Write(w, "/b c/x.tar") }, described + missing +
				"The archive contains private keys: keep it where only you can read it. Try a restore: " +
				"mayfly restore --from " +
				"'/b c/x.tar' --to DIR\n",
		},
		"a stream":  {func(w *bytes.Buffer) error { return full.Write(w, "") }, described + missing},
		"no secret": {func(w *bytes.Buffer) error { return bare.Write(w, "") }, describedBare},
		"restored": {
			restored(full, false, "the journal: \x1b[2J"), described + "not verified: the journal: \\x1b[2J\n" +
				"3 files restored and verified.\n" +
				"Set these environment variables, which have secrets: ONE, TWO.\n" +
				"The server may have signed more after the backup, so its logs do not continue. Close them, make " +
				"logs with new keys, and give verifiers the new trusted root:\n" +
				"mayfly log rotate --config '/a b/mayfly.yaml' --restored --yes\n" +
				"mayfly trust export --config '/a b/mayfly.yaml' --url URL --out trust\n" + next,
		},
		"restored without logs": {restored(bare, false), describedBare + "3 files restored and verified.\n" + next},
		"moved": {
			restored(full, true), described + "3 files restored and verified.\n" +
				"Set these environment variables, which have secrets: ONE, TWO.\n" + next,
		},
	} {
		var out bytes.Buffer
		if err := row.write(&out); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(row.want, out.String()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
