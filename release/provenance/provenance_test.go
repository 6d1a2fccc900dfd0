package provenance

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/release/bom"
	"github.com/mayfly-ca/mayfly/release/build"
)

func options() Options {
	return Options{
		Source: build.Source{
			Version: "v1.2.3", Commit: strings.Repeat("ab", 20), Date: time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC),
		},
		Targets: []build.Target{{OS: "linux", Arch: "amd64", Package: "./cmd/mayfly"}},
		Programs: []*bom.Program{{Modules: []bom.Module{
			{Path: "example.com/b", Version: "v1.0.0", Sum: "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
			{Path: "std", Version: "1.27.4"},
		}}, {Modules: []bom.Module{{Path: "std", Version: "1.27.4"}}}},
		Subjects: []Subject{{"mayfly", strings.Repeat("cd", 32)}},
	}
}

// The statement has the members that SLSA v1 requires, with the commit, the modules and the results.
func TestStatement(t *testing.T) {
	t.Parallel()
	text, err := Statement(options())
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // the encoder varies its white space
		again, err := Statement(options())
		if err != nil || !bytes.Equal(text, again) {
			t.Fatalf("a second statement of the same build differs (%v)", err)
		}
	}
	type resource struct {
		Name   string            `json:"name"`
		URI    string            `json:"uri"`
		Digest map[string]string `json:"digest"`
	}
	var s struct {
		Type          string     `json:"_type"`
		PredicateType string     `json:"predicateType"`
		Subject       []resource `json:"subject"`
		Predicate     struct {
			BuildDefinition struct {
				BuildType            string         `json:"buildType"`
				ExternalParameters   map[string]any `json:"externalParameters"`
				ResolvedDependencies []resource     `json:"resolvedDependencies"`
			} `json:"buildDefinition"`
			RunDetails struct {
				Builder struct {
					ID string `json:"id"`
				} `json:"builder"`
			} `json:"runDetails"`
		} `json:"predicate"`
	}
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	d := s.Predicate.BuildDefinition
	if s.Type != "https://in-toto.io/Statement/v1" || s.PredicateType != "https://slsa.dev/provenance/v1" ||
		d.BuildType != BuildType || s.Predicate.RunDetails.Builder.ID != BuilderID {
		t.Errorf("%s", text)
	}
	if len(s.Subject) != 1 || s.Subject[0].Name != "mayfly" ||
		s.Subject[0].Digest["sha256"] != strings.Repeat("cd", 32) {
		t.Errorf("subjects %+v", s.Subject)
	}
	if d.ExternalParameters["commit"] != strings.Repeat("ab", 20) || d.ExternalParameters["version"] != "v1.2.3" {
		t.Errorf("parameters %v", d.ExternalParameters)
	}
	deps := d.ResolvedDependencies
	if len(deps) != 3 || deps[0].Digest["gitCommit"] != strings.Repeat("ab", 20) ||
		deps[1].Digest["dirHash1"] != strings.Repeat("00", 32) || deps[2].URI != "pkg:golang/std@1.27.4" {
		t.Errorf("dependencies %+v", deps)
	}
}

// A statement does not claim that a modified work tree is the commit, and a statement about nothing is refused.
func TestModified(t *testing.T) {
	t.Parallel()
	o := options()
	o.Source.Modified = true
	text, err := Statement(o)
	if err != nil || bytes.Contains(text, []byte("gitCommit")) {
		t.Errorf("%v: %s", err, text)
	}
	o.Subjects = nil
	if _, err := Statement(o); err == nil {
		t.Error("a statement without subjects")
	}
}
