package e2e_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// TestWireAsFulcio compares the answers and the metrics of a released Fulcio with the golden files of the wire test,
// which contain the differences, and sends the same requests through "mayfly shadow". The tests of cmd/mayfly do the
// comparison when they get the path of the program.
func TestWireAsFulcio(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-run",
		"^(TestWire|TestFulcioMetrics|TestShadowOfFulcio)$", "./cmd/mayfly")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "MAYFLY_TEST_FULCIO="+lab.New(t).Look("fulcio"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
