package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Wrong usage is refused before anything is compiled, with what to write.
func TestUsage(t *testing.T) {
	t.Parallel()
	instance := []string{
		"-ca", "http://127.0.0.1:1", "-trusted-root", "x", "-token-file", "x", "-identity", "x", "-issuer", "x",
	}
	for want, args := range map[string][]string{
		"flag provided but not defined":                               {"-x"},
		`unexpected argument "dist"`:                                  {"dist"},
		`"linux/mips" is not a platform of a release`:                 {"-only", "linux/mips"},
		"-ca needs -trusted-root, -token-file, -identity and -issuer": {"-ca", "http://127.0.0.1:1"},
		"the flags for a running instance need -ca":                   {"-rekor", "http://127.0.0.1:1"},
		"-ca needs -tsa": instance,
	} {
		var errs bytes.Buffer
		if status := run(t.Context(), args, &errs); status != 2 || !strings.Contains(errs.String(), want) {
			t.Errorf("%q: status %d, %s", args, status, errs.String())
		}
	}
	var errs bytes.Buffer
	if status := run(t.Context(), []string{"-root", t.TempDir()}, &errs); status != 1 ||
		!strings.Contains(errs.String(), "a release is built from a git repository") {
		t.Errorf("outside a repository: status %d, %s", status, errs.String())
	}
}

// The flags of a running instance are those of its services; without them, the lab signs.
func TestService(t *testing.T) {
	t.Parallel()
	if s, err := (service{}).read(); s != nil || err != nil {
		t.Errorf("%v, %v", s, err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"root": "{}", "token": "a.b.c\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in := service{root: filepath.Join(dir, "root"), token: filepath.Join(dir, "token")}
	in.CA, in.Identity, in.Issuer = "https://ca.example.com", "release@example.com", "https://login.example.com"
	in.TSA = "https://tsa.example.com"
	s, err := in.read()
	if err != nil || s.Token != "a.b.c" || string(s.TrustedRoot) != "{}" || s.CA != in.CA {
		t.Errorf("%+v, %v", s, err)
	}
	in.token = filepath.Join(dir, "absent")
	if _, err := in.read(); err == nil {
		t.Error("an absent token")
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	all, err := choose("")
	if err != nil || len(all) != 5 {
		t.Errorf("%+v, %v", all, err)
	}
	two, err := choose("windows/amd64,linux/arm64")
	if err != nil || len(two) != 2 || !two[0].Client || two[1].Arch != "arm64" {
		t.Errorf("%+v, %v", two, err)
	}
}
