package sign_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/mayfly-ca/mayfly/release/sign"
	"github.com/mayfly-ca/mayfly/trust"
)

// Every file has a bundle that verifies with the trusted root beside it, for this file and for no other.
func TestRelease(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out := filepath.Join(dir, "signatures")
	sum := sha256.Sum256([]byte("program"))
	files := map[string]string{
		"mayfly": "program", "SHA256SUMS": "sums",
		"statement.json": fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"mayfly",`+
			`"digest":{"sha256":"%x"}}],"predicateType":"https://example.com/p","predicate":{}}`, sum),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	signer, err := sign.Release(t.Context(), sign.Options{
		Dir: dir, Files: []string{"mayfly", "SHA256SUMS"}, Statement: "statement.json", Subject: "mayfly", Out: out,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	root := read(trust.RootName)
	for _, name := range []string{"mayfly", "SHA256SUMS"} {
		expect := trust.Expectation{
			Identity: signer.Identity, Issuer: signer.Issuer,
			Artifact: bytes.NewReader([]byte(files[name])),
		}
		v, err := trust.VerifyBundle(root, read(name+sign.Suffix), expect)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if v.LogEntries != 1 || v.SCTs != 1 || len(v.Times) == 0 {
			t.Errorf("%s: %+v", name, v)
		}
		expect.Artifact = bytes.NewReader([]byte(files[name] + "!"))
		if _, err := trust.VerifyBundle(root, read(name+sign.Suffix), expect); err == nil {
			t.Errorf("%s: the signature verifies for another content", name)
		}
	}
	expect := trust.Expectation{
		Identity: signer.Identity, Issuer: signer.Issuer, Digest: "sha256:" + hex.EncodeToString(sum[:]),
	}
	v, err := trust.VerifyBundle(root, read("statement.json"+sign.Suffix), expect)
	if err != nil || v.Statement != "https://example.com/p" {
		t.Errorf("the statement: %+v, %v", v, err)
	}
	expect.Digest = "sha256:" + hex.EncodeToString(bytes.Repeat([]byte{1}, 32))
	if _, err := trust.VerifyBundle(root, read("statement.json"+sign.Suffix), expect); err == nil {
		t.Error("the statement verifies for a file that it does not name")
	}
}

// A file that is missing fails the whole.
func TestMissing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := sign.Release(t.Context(), sign.Options{
		Dir: dir, Files: []string{"absent"}, Out: filepath.Join(dir, "out"), Log: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		t.Error("a missing file was signed")
	}
}
