// Package collected compares the metrics that a package makes with those that it hands out to be served.
package collected

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// All reports each metric whose name is in a source file and that is not among the collectors.
func All(t testing.TB, file string, collectors []prometheus.Collector) {
	t.Helper()
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	descriptions := make(chan *prometheus.Desc)
	go func() {
		defer close(descriptions)
		for _, c := range collectors {
			c.Describe(descriptions)
		}
	}()
	var have strings.Builder
	for d := range descriptions {
		have.WriteString(d.String())
	}
	names := regexp.MustCompile(`Name:\s+"(mayfly_\w+)"`).FindAllSubmatch(source, -1)
	if len(names) == 0 {
		t.Errorf("%s has no metrics", file)
	}
	for _, m := range names {
		if !strings.Contains(have.String(), `"`+string(m[1])+`"`) {
			t.Errorf("%s is in %s, and not served", m[1], file)
		}
	}
}
