package config_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/config"
)

// The blocks of the pages about keys are settings that are accepted. Their keys are in services and devices that the
// test of the other pages cannot reach.
func TestKeysPages(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../docs/keys*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages = append(pages, "../docs/signature-log.md")
	block := regexp.MustCompile("(?ms)^```yaml\n((?:ca|rekor):\n.*?)^```$")
	secrets := regexp.MustCompile(`(file|ca_cert): (?:/[\w/]+/)?([\w.-]+)`)
	found := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range block.FindAllStringSubmatch(string(text), -1) {
			found++
			if !strings.Contains(m[1], "kms:") && !strings.Contains(m[1], "  tink:\n") {
				continue // other backends read files when the test of all pages checks their blocks
			}
			before := identity
			if strings.HasPrefix(m[1], "rekor:") {
				before += caFile
			}
			main := write(t, before+secrets.ReplaceAllString(m[1], "$1: $2")+embedded, issuers)
			names := append(secrets.FindAllStringSubmatch(m[1], -1), []string{"", "", "ca-keyset.json"})
			for _, name := range names {
				if err := os.WriteFile(filepath.Join(filepath.Dir(main), name[2]), []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, _, err := config.Load(main); err != nil {
				t.Errorf("%s: %v\n%s", page, err, m[1])
			}
		}
	}
	if found < 8 {
		t.Errorf("%d blocks", found)
	}
}
