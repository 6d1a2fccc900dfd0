package issuer

import (
	"os"
	"strings"
	"testing"
	"time"
)

// The leeway that the documentation names is the one of the code.
func TestDocumentedLeeway(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(strings.Fields(string(data)), " "); leeway != time.Minute ||
		!strings.Contains(text, "beyond a leeway of 60 s") {
		t.Errorf("docs/errors.md does not say a leeway of %s", leeway)
	}
}
