package provider

import (
	"os"
	"strings"
	"testing"
	"time"
)

// The times that the documentation names are those of the code.
func TestDocumentedTimes(t *testing.T) {
	t.Parallel()
	words := map[time.Duration]string{
		5 * time.Second: "five seconds", 10 * time.Second: "ten seconds", 15 * time.Second: "fifteen seconds",
		5 * time.Minute: "five minutes",
		24 * time.Hour:  "24 hours", time.Minute: "60 s", 30 * time.Second: "30 s",
	}
	for _, c := range []struct {
		page, before string
		value        time.Duration
	}{
		{"errors.md", "unknown names are limited to one in", unknownKeyEvery},
		{"config.md", "but for such tokens no more than three times at once and once in", unknownKeyEvery},
		{"security.md", "one shared fetch in", unknownKeyEvery},
		{"config.md", "at start, then every", freshFor},
		{"config.md", "Keys that were good stay good for", usableFor},
	} {
		data, err := os.ReadFile("../../docs/" + c.page)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(strings.Fields(string(data)), " ")
		if want := c.before + " " + words[c.value]; words[c.value] == "" || !strings.Contains(text, want) {
			t.Errorf("docs/%s does not say %q; the code has %s", c.page, want, c.value)
		}
	}
}
