package bom

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdxlib"
)

// program reads the program of this test, which has modules as any program.
func program(t *testing.T) *Program {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, err := Read(path, "mayfly_1.2.3_linux_amd64", "v1.2.3", time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// urls returns the package URLs of the modules that the linker recorded.
func urls(p *Program) []string {
	var out []string
	for _, m := range p.Modules {
		out = append(out, m.URL())
	}
	slices.Sort(out)
	return out
}

func TestRead(t *testing.T) {
	t.Parallel()
	p := program(t)
	have := map[string]Module{}
	for _, m := range p.Modules {
		have[m.Path] = m
	}
	if m := have["github.com/CycloneDX/cyclonedx-go"]; m.Version == "" || m.Sum == "" {
		t.Errorf("a library of this program: %+v", m)
	} else if sum, ok := m.DirHash(); !ok || len(sum) != 64 {
		t.Errorf("its digest: %q", sum)
	}
	if have["std"].Version == "" {
		t.Error("the standard library is missing")
	}
	if _, err := Read(filepath.Join(t.TempDir(), "absent"), "", "", time.Time{}); err == nil {
		t.Error("an absent program")
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(text, "", "", time.Time{}); err == nil {
		t.Error("a script")
	}
}

// A reader of CycloneDX finds the modules, and the digest of the program.
func TestCycloneDX(t *testing.T) {
	t.Parallel()
	p := program(t)
	text, err := p.CycloneDX()
	if err != nil {
		t.Fatal(err)
	}
	again, err := program(t).CycloneDX()
	if err != nil || !bytes.Equal(text, again) {
		t.Errorf("a second document of the same program differs (%v)", err)
	}
	var doc cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(text), cdx.BOMFileFormatJSON).Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if doc.SpecVersion != cdx.SpecVersion1_6 || doc.Metadata.Timestamp != "2026-11-30T09:00:00Z" ||
		(*doc.Metadata.Component.Hashes)[0].Value != p.SHA256 {
		t.Errorf("%+v", doc.Metadata)
	}
	var got []string
	for _, c := range *doc.Components {
		got = append(got, c.PackageURL)
	}
	slices.Sort(got)
	if want := urls(p); !slices.Equal(got, want) {
		t.Errorf("components %q, want %q", got, want)
	}
}

// A reader of SPDX finds the modules, and its rules are met.
func TestSPDX(t *testing.T) {
	t.Parallel()
	p := program(t)
	text, err := p.SPDX()
	if err != nil {
		t.Fatal(err)
	}
	again, err := program(t).SPDX()
	if err != nil || !bytes.Equal(text, again) {
		t.Errorf("a second document of the same program differs (%v)", err)
	}
	if !json.Valid(text) {
		t.Fatal("not JSON")
	}
	doc, err := spdxjson.Read(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		t.Error(err)
	}
	if doc.CreationInfo.Created != "2026-11-30T09:00:00Z" || doc.SPDXVersion != "SPDX-2.3" {
		t.Errorf("%+v", doc.CreationInfo)
	}
	var got []string
	for _, one := range doc.Packages {
		if one.PackageFileName == "" {
			got = append(got, one.PackageExternalReferences[0].Locator)
		} else if one.PackageChecksums[0].Value != p.SHA256 || one.PackageLicenseDeclared != License {
			t.Errorf("%+v", one)
		}
	}
	slices.Sort(got)
	if want := urls(p); !slices.Equal(got, want) {
		t.Errorf("packages %q, want %q", got, want)
	}
}
