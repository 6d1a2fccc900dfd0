package e2e_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// TestWalkthroughs runs the shell lines of docs/walkthroughs.md, in one shell and in their order.
func TestWalkthroughs(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	page, err := os.ReadFile("../docs/walkthroughs.md")
	if err != nil {
		t.Fatal(err)
	}
	script := "set -eu\ntrap 'kill $(jobs -p); wait' EXIT\n"
	blocks := strings.Split(string(page), "```sh\n")[1:]
	for _, b := range blocks {
		lines, _, _ := strings.Cut(b, "```\n")
		script += lines
	}
	if len(blocks) < 5 {
		t.Fatalf("%d blocks", len(blocks))
	}
	r := l.Run(lab.Command{Name: "bash", Args: []string{l.Write("walkthroughs.sh", script+"echo all done\n")}})
	t.Log(r.Stdout)
	if !strings.HasSuffix(strings.TrimSpace(r.Stdout), "all done") {
		t.Errorf("not to the end:\n%s%s", r.Stdout, r.Stderr)
	}
}

// TestPages runs the lines of README.md and of docs/getting-started.md, those with cosign included. A YAML block that
// begins with the name of a file is that file.
func TestPages(t *testing.T) {
	t.Parallel()
	for _, page := range []string{"../README.md", "../docs/getting-started.md"} {
		t.Run(filepath.Base(page), func(t *testing.T) {
			t.Parallel()
			l := lab.New(t)
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			var change []string
			for _, port := range []string{"5555", "5556", "6555", "6112"} {
				change = append(change, "127.0.0.1:"+port, l.Address())
			}
			dev := "mayfly dev --http " + change[1] + " --idp " + change[3] + " --grpc off --admin off > "
			change = append(change, "mayfly dev > ", dev, "bin/mayfly", "mayfly")
			script := "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n"
			if strings.HasSuffix(page, "README.md") { // "make dev" in another terminal
				script += dev + "dev.out 2> dev.err &\nuntil grep -q 'Ctrl-C stops' dev.out; do sleep 1; done\n"
			}
			for _, m := range regexp.MustCompile("(?ms)^```(sh|yaml)\n(.*?)^```$").FindAllStringSubmatch(string(text),
				-1) {
				name := regexp.MustCompile(`^# ([\w.-]+\.yaml)\n`).FindStringSubmatch(m[2])
				switch {
				case m[1] == "sh":
					script += m[2]
				case name != nil:
					script += "cat > " + name[1] + " <<'END OF FILE'\n" + m[2] + "END OF FILE\n"
				}
			}
			r := l.Run(lab.Command{
				Name: "bash",
				Args: []string{l.Write("page.sh", strings.NewReplacer(change...).Replace(script)+"echo all done\n")},
			})
			if !strings.HasSuffix(strings.TrimSpace(r.Stdout), "all done") {
				t.Errorf("not to the end:\n%s%s", r.Stdout, r.Stderr)
			}
		})
	}
}
