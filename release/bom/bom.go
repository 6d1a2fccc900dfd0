// Package bom writes the software bill of materials of a program: in CycloneDX 1.6 and in SPDX 2.3.
//
// The content is what the linker recorded in the program itself, and the digest of the file: the modules that are in
// the program, and no others. Serial numbers and times come from the content and the commit, so that the same program
// gives the same bytes.
package bom

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// License is the licence of mayfly. The licences of the modules are not recorded in a program, and are not asserted.
const License = "Apache-2.0"

// Program is a program with what the linker recorded.
type Program struct {
	File    string // name of the file
	Version string // of mayfly
	At      time.Time
	SHA256  string // of the file, in hexadecimal digits
	Modules []Module
	Main    Module
	Tools   string // version of the compiler, such as "go1.27.4"
}

// Module is a module in a program. The standard library counts as one, with the name "std".
type Module struct {
	Path, Version string
	Sum           string // as in go.sum: "h1:" and the digest in base64; "" for the main module and std
}

// URL returns the package URL (purl).
func (m Module) URL() string {
	return "pkg:golang/" + (&url.URL{Path: m.Path}).EscapedPath() + "@" + url.QueryEscape(m.Version)
}

// DirHash returns the digest of the module in hexadecimal digits, as the digest "dirHash1" of in-toto has it.
func (m Module) DirHash() (string, bool) {
	_, text, ok := strings.Cut(m.Sum, "h1:")
	if !ok {
		return "", false
	}
	sum, err := base64.StdEncoding.DecodeString(text)
	return hex.EncodeToString(sum), err == nil && len(sum) == sha256.Size
}

// Read reads a program.
func Read(path, name, version string, at time.Time) (*Program, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	info, err := buildinfo.Read(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	sum := sha256.Sum256(text)
	p := &Program{
		File: name, Version: version, At: at.UTC(), SHA256: hex.EncodeToString(sum[:]), Tools: info.GoVersion,
		Main: Module{Path: info.Main.Path, Version: version},
	}
	for _, d := range info.Deps {
		p.Modules = append(p.Modules, moduleOf(d))
	}
	goVersion, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ")
	p.Modules = append(p.Modules, Module{Path: "std", Version: goVersion})
	return p, nil
}

func moduleOf(d *debug.Module) Module {
	if d.Replace != nil {
		d = d.Replace
	}
	return Module{Path: d.Path, Version: d.Version, Sum: d.Sum}
}

// CycloneDX returns the document in JSON.
func (p *Program) CycloneDX() ([]byte, error) {
	doc := cdx.NewBOM()
	doc.SpecVersion = cdx.SpecVersion1_6
	doc.JSONSchema = "http://cyclonedx.org/schema/bom-1.6.schema.json"
	doc.SerialNumber = "urn:uuid:" + p.uuid()
	main := &cdx.Component{
		BOMRef: p.Main.URL(), Type: cdx.ComponentTypeApplication, Name: p.Main.Path, Version: p.Version,
		PackageURL: p.Main.URL(),
		Licenses:   &cdx.Licenses{{License: &cdx.License{ID: License}}},
		Hashes:     &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: p.SHA256}},
		Properties: &[]cdx.Property{{Name: "file", Value: p.File}, {Name: "compiler", Value: p.Tools}},
	}
	doc.Metadata = &cdx.Metadata{Timestamp: p.At.Format(time.RFC3339), Component: main}
	var components []cdx.Component
	var refs []string
	for _, m := range p.Modules {
		c := cdx.Component{
			BOMRef: m.URL(), Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: m.URL(),
			Scope: cdx.ScopeRequired,
		}
		if m.Sum != "" {
			c.Properties = &[]cdx.Property{{Name: "go.sum", Value: m.Sum}}
		}
		components, refs = append(components, c), append(refs, m.URL())
	}
	doc.Components = &components
	doc.Dependencies = &[]cdx.Dependency{{Ref: p.Main.URL(), Dependencies: &refs}}
	var out bytes.Buffer
	err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(doc, cdx.SpecVersion1_6)
	return out.Bytes(), err
}

// uuid returns a UUID of version 8 (RFC 9562 §5.8) from the digest of the file.
func (p *Program) uuid() string {
	sum := sha256.Sum256([]byte("mayfly bill of materials " + p.SHA256))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	s := hex.EncodeToString(sum[:16])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// SPDX returns the document in JSON.
func (p *Program) SPDX() ([]byte, error) {
	const none = "NOASSERTION"
	doc := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: p.File,
		DocumentNamespace: "https://github.com/mayfly-ca/mayfly/spdx/" + url.PathEscape(p.File) + "/" + p.uuid(),
		CreationInfo: &spdx.CreationInfo{
			Created:  p.At.Format(time.RFC3339),
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "mayfly-release"}},
		},
	}
	link := func(from, how, to string) {
		doc.Relationships = append(doc.Relationships, &spdx.Relationship{
			RefA: common.DocElementID{ElementRefID: common.ElementID(from)}, Relationship: how,
			RefB: common.DocElementID{ElementRefID: common.ElementID(to)},
		})
	}
	add := func(id string, m Module) *spdx.Package {
		one := &spdx.Package{
			PackageName: m.Path, PackageSPDXIdentifier: common.ElementID(id), PackageVersion: m.Version,
			PackageDownloadLocation: none, PackageLicenseConcluded: none, PackageLicenseDeclared: none,
			PackageCopyrightText: none, IsFilesAnalyzedTagPresent: true,
			PackageExternalReferences: []*spdx.PackageExternalReference{{
				Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: m.URL(),
			}},
		}
		doc.Packages = append(doc.Packages, one)
		return one
	}
	main := add("Package-mayfly", p.Main)
	main.PackageFileName, main.PackageLicenseDeclared = p.File, License
	main.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: p.SHA256}}
	main.PrimaryPackagePurpose = "APPLICATION"
	link("DOCUMENT", common.TypeRelationshipDescribe, "Package-mayfly")
	for i, m := range p.Modules {
		id := fmt.Sprintf("Package-%d", i+1)
		add(id, m)
		link("Package-mayfly", common.TypeRelationshipDependsOn, id)
	}
	out, err := json.MarshalIndent(doc, "", "  ")
	return append(out, '\n'), err
}
