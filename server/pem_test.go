package server

import (
	"bytes"
	"encoding/pem"
	"testing"
)

// pemOf returns the same as encoding/pem, except for the newline at the end.
func TestPEM(t *testing.T) {
	t.Parallel()
	for n := range 200 {
		der := bytes.Repeat([]byte{0xfb, 0x01, 0xff}, n)[:n]
		want := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if got := pemOf(der) + "\n"; got != string(want) {
			t.Fatalf("%d bytes: %q, not %q", n, got, want)
		}
	}
}
