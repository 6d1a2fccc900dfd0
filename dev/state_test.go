package dev

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/testkit/ondisk"
)

// TestDevKeepsKeys removes each subset of the CA's files. The remaining files are never replaced.
func TestDevKeepsKeys(t *testing.T) {
	t.Parallel()
	names := []string{"root-key.pem", "ca-key.pem", "chain.pem"}
	for mask := range 1 << len(names) {
		for _, used := range []string{
			"", "journal.jsonl", "ct/checkpoint", "idp/key.json", "tsa/chain.pem",
			"trusted_root.json",
		} {
			dir := t.TempDir()
			s := &State{dir: dir, Version: Format, Issuer: "http://127.0.0.1:1"}
			if err := s.complete(); err != nil {
				t.Fatal(err)
			}
			missing := 0
			for i, name := range names {
				if mask>>i&1 == 1 {
					missing++
					if err := os.Remove(filepath.Join(dir, name)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if used != "" {
				if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(used)), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, used), []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			before := ondisk.Contents(t, dir)
			err := s.complete()
			after := ondisk.Contents(t, dir)
			switch {
			case missing == 0 || missing == len(names) && used == "":
				if err != nil || missing > 0 && len(after) != len(names) {
					t.Errorf("%d files gone, %q there: %v, %d files", missing, used, err, len(after))
				}
			case err == nil || !strings.Contains(err.Error(), "restore it, or choose another directory"):
				t.Errorf("%d files gone, %q there: %v", missing, used, err)
			case !maps.Equal(before, after):
				t.Errorf("%d files gone, %q there: the directory changed", missing, used)
			}
		}
	}
}

// TestDevRefuses starts the command on a directory whose chain is missing. Both keys stay unchanged.
func TestDevRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := OpenState(dir)
	if err != nil {
		t.Fatal(err)
	}
	s.Issuer = "http://127.0.0.1:1"
	if err := s.prepare(addresses{"127.0.0.1:0", "off", "off"}, false); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := os.Remove(filepath.Join(dir, "chain.pem")); err != nil {
		t.Fatal(err)
	}
	before := ondisk.Contents(t, dir)
	var out bytes.Buffer
	flags := &Options{Dir: dir, HTTP: "127.0.0.1:0", GRPC: "off", Admin: "off", IDP: "127.0.0.1:0"}
	err = Run(t.Context(), flags, slog.New(slog.NewTextHandler(&out, nil)), &out)
	if err == nil || !strings.Contains(err.Error(), "chain.pem is missing") {
		t.Errorf("%v", err)
	}
	after := ondisk.Contents(t, dir)
	for _, name := range []string{"root-key.pem", "ca-key.pem"} {
		if path := filepath.Join(dir, name); before[path] != after[path] {
			t.Errorf("%s changed", name)
		}
	}
}

// A directory of a newer version is refused with both versions, and stays as it is.
func TestDevNewerState(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := fmt.Sprintf(`{"version": %d, "issuer": "http://127.0.0.1:1"}`, Format+1)
	if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	before := ondisk.Contents(t, dir)
	want := fmt.Sprintf("%s was written by a newer mayfly (layout %d; this version supports up to %d)",
		dir, Format+1, Format)
	if _, err := OpenState(dir); err == nil || !strings.Contains(err.Error(), want) {
		t.Error(err)
	}
	if after := ondisk.Contents(t, dir); !maps.Equal(before, after) {
		t.Error("the directory changed")
	}
}
