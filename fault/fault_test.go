package fault_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/fault"
)

// F6 // F7: a client reads the message of the table and the declared facts; causes stay private, however they are
// wrapped.
func TestNew(t *testing.T) {
	t.Parallel()
	cause := errors.New("canary")
	e := fault.New(fault.AudienceMismatch, cause, "want", "sigstore", "got",
		"x\ny"+strings.Repeat("z", 999), "secret", "s")
	if e.Kind != fault.Invalid || e.Public != fault.AudienceMismatch.Message() ||
		strings.Contains(e.Public, "canary") || !errors.Is(e, cause) {
		t.Errorf("%+v", e)
	}
	if e.Meta["want"] != "sigstore" || !strings.HasPrefix(e.Meta["got"], "x?y") || len(e.Meta["got"]) > 256 ||
		len(e.Meta) != 2 {
		t.Errorf("%v", e.Meta)
	}
	if got := fault.From(fmt.Errorf("wrapped: %w", e)); got != e {
		t.Errorf("%v", got)
	}
	if got := fault.From(cause); got.Kind != fault.Internal || strings.Contains(got.Public, "canary") ||
		fault.From(nil) != nil {
		t.Errorf("%v", got)
	}
	if got := fault.New("NO_SUCH_REASON", nil); got.Reason != fault.InternalError {
		t.Errorf("%v", got)
	}
}

// F7: every reason has a message for the client.
func TestReasons(t *testing.T) {
	t.Parallel()
	n := 0
	for r := range fault.Reasons() {
		n++
		if r.Message() == "" || strings.ToUpper(string(r)) != string(r) {
			t.Errorf("%s: %q", r, r.Message())
		}
	}
	if n < 30 {
		t.Errorf("%d reasons", n)
	}
}

// G1: settings keep their path when errors are joined.
func TestSettings(t *testing.T) {
	t.Parallel()
	err := fault.Under(errors.Join(fault.BadSetting("is wrong", "write right", "b"), errors.New("other")), "a")
	if got := err.Error(); got != "a.b: is wrong; write right\nother" {
		t.Errorf("%q", got)
	}
	if fault.Under(nil, "a") != nil {
		t.Error("nil became an error")
	}
}

// G1: an error about an unusable file names the file and says what to do.
func TestBadFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for want, path := range map[string]string{
		"write a path that exists": filepath.Join(dir, "no"),
		"write the path of a file": dir, "not a directory": "/dev/null/no",
	} {
		_, err := os.ReadFile(path)
		if got := fault.BadFile(path, err, "a").Error(); !strings.HasPrefix(got, "a: "+path+": ") ||
			!strings.Contains(got, want) || strings.Count(got, path) != 1 {
			t.Errorf("%q", got)
		}
	}
	if got := fault.Advice(fs.ErrPermission); !strings.Contains(got, "chown") {
		t.Errorf("%q", got)
	}
	if got := fault.BadFile("f", errors.New("is empty")).Error(); got != "f: is empty" {
		t.Errorf("%q", got)
	}
}
