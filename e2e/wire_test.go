package e2e_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// TestWireAsFulcio holds the answers of a released Fulcio against the golden file of the wire, which says where mayfly differs:
// the product's own test does it, once it knows the program.
func TestWireAsFulcio(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-run", "^TestWire$", "./cmd/mayfly")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "MAYFLY_TEST_FULCIO="+lab.New(t).Look("fulcio"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
