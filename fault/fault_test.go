package fault_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/fault"
)

// F6 // F7: a client reads the table's text and declared facts; causes stay inside, whatever they are wrapped in.
func TestNew(t *testing.T) {
	t.Parallel()
	cause := errors.New("canary")
	e := fault.New(fault.AudienceMismatch, cause, "want", "sigstore", "got", "x\ny"+strings.Repeat("z", 999), "secret", "s")
	if e.Kind != fault.Invalid || e.Public != fault.AudienceMismatch.Message() || strings.Contains(e.Public, "canary") || !errors.Is(e, cause) {
		t.Errorf("%+v", e)
	}
	if e.Meta["want"] != "sigstore" || !strings.HasPrefix(e.Meta["got"], "x?y") || len(e.Meta["got"]) > 256 || len(e.Meta) != 2 {
		t.Errorf("%v", e.Meta)
	}
	if got := fault.From(fmt.Errorf("wrapped: %w", e)); got != e {
		t.Errorf("%v", got)
	}
	if got := fault.From(cause); got.Kind != fault.Internal || strings.Contains(got.Public, "canary") || fault.From(nil) != nil {
		t.Errorf("%v", got)
	}
	if got := fault.New("NO_SUCH_REASON", nil); got.Reason != fault.InternalError {
		t.Errorf("%v", got)
	}
}

// F7: every reason has a text for the client.
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

// G1: settings keep their place through joins.
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
