package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/terminal"
)

// The screen escapes the output of a command, however it is split into writes.
func TestScreen(t *testing.T) {
	t.Parallel()
	for size := 1; size < 8; size++ {
		var out bytes.Buffer
		s := terminal.NewScreen(&out)
		for text := hostile + "é日本\U0001f600\n"; text != ""; {
			n := min(size, len(text))
			if _, err := io.WriteString(s, text[:n]); err != nil {
				t.Fatal(err)
			}
			text = text[n:]
		}
		harmless(t, "pieces", strings.Replace(out.String(), "\nPAINTED", "", 1)) // line feeds are not escaped
		if !strings.HasSuffix(out.String(), "é日本\U0001f600\n") {
			t.Errorf("in pieces of %d: %q", size, out.String())
		}
	}
	var out bytes.Buffer
	s := &terminal.Screen{To: &out, Styled: true}
	st := terminal.Style{On: true}
	if _, err := io.WriteString(s, st.Green("ok")+"\x1b[2J\x1b[5m\x1b[320m"); err != nil ||
		out.String() != st.Green("ok")+`\u001b[2J\u001b[5m\u001b[320m` {
		t.Errorf("%q, %v", out.String(), err)
	}
}
