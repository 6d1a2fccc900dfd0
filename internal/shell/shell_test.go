package shell_test

import (
	"os/exec"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/shell"
)

// A shell reads each quoted word as the original word.
func TestQuote(t *testing.T) {
	t.Parallel()
	for _, word := range []string{
		"", "a", "/var/lib/ca.d/x_y-1:2@3%4+5=6,7", "a b", "it's", "$HOME", "`id`", "a;b|c&d",
		"~", "#", "\\", "é", "*", "a\nb", "''",
	} {
		out, err := exec.Command("sh", "-c", "printf %s "+shell.Quote(word)).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q is written %s and read as %q, %v", word, shell.Quote(word), out, err)
		}
	}
	if got := shell.Quote("https://log.example.com/2026"); got != "https://log.example.com/2026" {
		t.Errorf("a plain word is quoted: %s", got)
	}
}
