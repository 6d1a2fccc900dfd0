package reconcile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const validOrder = `{"alarm":"0123456789abcdef"}`

// G9: an order can close the alarm of a key compromise, so it is applied only if no one but the CA's user and root can
// have written it. A file that another user may have written stays, and a file that is not an order is removed.
func TestTakeOrders(t *testing.T) {
	t.Parallel()
	write := func(path, text string, mode os.FileMode) error {
		return errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode))
	}
	for name, c := range map[string]struct {
		make  func(path string) error
		taken bool
		says  string
		stays bool
	}{
		"an alarm": {func(p string) error { return write(p, validOrder, 0o600) }, true, "", false},
		"a log":    {func(p string) error { return write(p, `{"log":"tesseract"}`, 0o600) }, true, "", false},
		"empty":    {func(p string) error { return write(p, ``, 0o600) }, false, "not an order", false},
		"array":    {func(p string) error { return write(p, `[]`, 0o600) }, false, "not an order", false},
		"neither": {
			func(p string) error { return write(p, `{}`, 0o600) }, false,
			"either a log or an alarm", false,
		},
		"both": {
			func(p string) error { return write(p, `{"log":"a","alarm":"0123456789abcdef"}`, 0o600) },
			false, "either a log or an alarm", false,
		},
		"a pattern": {
			func(p string) error { return write(p, `{"alarm":"*"}`, 0o600) }, false,
			"16 hexadecimal digits", false,
		},
		"another member": {
			func(p string) error { return write(p, `{"alarm":"0123456789abcdef","all":true}`, 0o600) },
			false, "unknown field", false,
		},
		"two values": {
			func(p string) error { return write(p, validOrder+validOrder, 0o600) }, false,
			"more than one JSON value", false,
		},
		"too large": {
			func(p string) error { return write(p, validOrder+strings.Repeat(" ", maxOrderSize), 0o600) },
			false, "more than the maximum", false,
		},
		"group-writable": {
			func(p string) error { return write(p, validOrder, 0o620) }, false,
			"users other than its owner can write", true,
		},
		"world-writable": {
			func(p string) error { return write(p, validOrder, 0o602) }, false,
			"users other than its owner can write", true,
		},
		"a link": {func(p string) error {
			return errors.Join(write(p+"-", validOrder, 0o600), os.Rename(p+"-", filepath.Join(filepath.Dir(p), "x")),
				os.Symlink("x", p))
		}, false, "not applied", true},
		"a dangling link": {func(p string) error { return os.Symlink("/nowhere", p) }, false, "not applied", true},
		"a pipe": {
			func(p string) error { return syscall.Mkfifo(p, 0o600) }, false,
			"not a regular file", true,
		},
		"a directory": {func(p string) error { return os.Mkdir(p, 0o700) }, false, "not a regular file", true},
		"a foreign owner": {func(p string) error {
			return errors.Join(write(p, validOrder, 0o600), os.Chown(p, 4242, -1))
		}, false, "belongs to user 4242", true},
		"a directory that others can write to": {func(p string) error {
			return errors.Join(write(p, validOrder, 0o600), os.Chmod(filepath.Dir(p), 0o770))
		}, false, "run chmod go-w", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "a foreign owner" && os.Geteuid() != 0 {
				t.Skip("only root can give a file away")
			}
			dir := filepath.Join(t.TempDir(), "state")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			journal := filepath.Join(dir, "journal.jsonl")
			path := journal + orderInfix + "A"
			if err := c.make(path); err != nil {
				t.Fatal(err)
			}
			orders, err := TakeOrders(journal)
			if (len(orders) == 1) != c.taken || (err == nil) != (c.says == "") ||
				err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%+v, %v", orders, err)
			}
			if c.taken && orders[0].By != fmt.Sprintf("user %d", os.Geteuid()) {
				t.Errorf("by %q", orders[0].By)
			}
			if _, err := os.Lstat(path); (err == nil) != c.stays {
				t.Errorf("the file stays: %v", err)
			}
		})
	}
}

// TakeOrders takes what WriteOrder wrote, in the order of the file names. WriteOrder refuses a directory that
// TakeOrders would refuse.
func TestWriteOrder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state [x]*") // not a pattern
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	journal := filepath.Join(dir, "journal.jsonl")
	for _, name := range []string{"B", "A"} {
		if err := writeOrder(journal, name, []byte(`{"log":"`+name+`"}`)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := TakeOrders(journal)
	want := []Order{{Log: "A"}, {Log: "B"}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Order{}, "By")); diff != "" || err != nil {
		t.Errorf("%s %v", diff, err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := writeOrder(journal, "C", []byte(validOrder)); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("a group-writable directory was accepted: %v", err)
	}
}

func FuzzOrder(f *testing.F) {
	f.Add([]byte(validOrder))
	f.Add([]byte(`{"log":"tesseract"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := parseOrder(data)
		if err != nil {
			return
		}
		if (o.Log == "") == (o.Alarm == "") || o.By != "" {
			t.Errorf("%+v", o)
		}
	})
}
