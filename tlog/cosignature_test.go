package tlog_test

import (
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/testkit/witness"
	"github.com/mayfly-ca/mayfly/tlog"
)

// For every answer of a witness, at most one line is added to the checkpoint, and that line verifies.
func FuzzCosignature(f *testing.F) {
	w := witness.New(f, "w.example")
	checkpoint := []byte("mayfly.test/ct\n1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— " +
		"mayfly.test/ct AAAAAAAA\n")
	f.Add([]byte("— w.example AAAA\n"))
	f.Add([]byte("\n\n— x y\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		line, err := tlog.Cosignature(checkpoint, answer, w.Key())
		if _, ok := w.Cosigned(string(checkpoint) + line); err == nil && (!ok || strings.Count(line, "\n") != 1) {
			t.Errorf("%q", line)
		}
	})
}
