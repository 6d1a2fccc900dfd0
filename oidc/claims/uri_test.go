package claims

import (
	"maps"
	"testing"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// D15: the required beginning of a name ends with a complete host.
func TestBeneath(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		under, uri string
		want       bool
	}{
		{"https://h.example", "https://h.example/x", true},
		{"https://h.example", "https://h.example", true},
		{"https://h.example", "https://h.example.evil/x", false},
		{"https://h.example", "https://h.example:8443/x", false},
		{"https://h.example", "https://h.example@evil/x", false},
		{"https://h.example/", "https://h.example/x", true},
		{"https://h.example/a/", "https://h.example/ab", false},
		{"arn:", "arn:aws:x", true},
		{"arn:", "https://x", false},
		{"", "https://x", true},
	} {
		if got := (uriRules{under: c.under}).isUnder(c.uri); got != c.want {
			t.Errorf("%s under %q: %t", c.uri, c.under, got)
		}
	}
}

// D14: a subject that is a URI must be normalized.
func TestSpellings(t *testing.T) {
	t.Parallel()
	m := mapperFor(t, "https://example.com", MappingConfig{Type: "uri", SubjectDomain: "https://example.com:8443"}, nil)
	const at = "https://example.com:8443"
	for sub, want := range map[string]bool{
		at: true, at + "/": true, at + "/users/1": true, at + "/a%20b": true, at + "/%C3%A9?x=1#y": true,
		at + "/users/": true,
		at + "/a b":    false, at + `?x="<>`: false, "https://example.com/a": false, "https://example.com:/a": false,
		"HTTPS://example.com:8443/a": false, "https://Example.com:8443/a": false,
		at + "/%61": false, at + "/%c3%a9": false, at + "/%2e%2e/x": false, at + "/%252e%252e/x": false,
		at + "/a//b": false, at + "/%": false, at + "/%zz": false, at + "/[x]": false,
		at + "/a#b#c": false, "https://u@example.com:8443/a": false, "https:/example.com:8443/a": false,
		"https:example.com": false, at + `/a\b`: false, at + "/é": false,
		at + "/a\u200bb": false, "https://example.com:08443/": false, "//example.com:8443/": false,
		at + ".evil/": false,
	} {
		id, err := m.Identity(token.Claims{"iss": "https://example.com", "sub": sub})
		if (err == nil) != want || err == nil && id.SAN.Value != sub ||
			err != nil && fault.From(err).Meta["claim"] != "sub" {
			t.Errorf("%q: %q, %v", sub, id.SAN.Value, err)
		}
	}
}

// D12 // D13: the name of a GitHub workflow for each kind of value, with mayfly's rules and with Fulcio's.
func TestBytesOfNames(t *testing.T) {
	t.Parallel()
	byName := map[string]*nameTarget{}
	for _, n := range nameTargets(t) {
		byName[n.name] = n
	}
	const refused = ""
	for _, c := range []struct{ file, ours, fulcio, fixed, fixedFulcio string }{
		{
			"r.yml@refs/heads/main", "r.yml@refs/heads/main", "r.yml@refs/heads/main", "r.yml@refs/heads/main",
			"r.yml@refs/heads/main",
		},
		{
			"Build Release.yml@refs/heads/main", "Build%20Release.yml@refs/heads/main",
			"Build%20Release.yml@refs/heads/main", "Build%20Release.yml@refs/heads/main",
			"Build%20Release.yml@refs/heads/main",
		},
		{
			"Build (x).yml@a", "Build%20%28x%29.yml@a", "Build%20%28x%29.yml@a", "Build%20%28x%29.yml@a",
			"Build%20%28x%29.yml@a",
		},
		{
			"Build Release.yml@refs/heads/m%61in", "Build%20Release.yml@refs/heads/m%2561in", refused,
			"Build%20Release.yml@refs/heads/m%2561in", refused,
		},
		{"r.yml@m%61in", "r.yml@m%2561in", "r.yml@m%61in", "r.yml@m%2561in", "r.yml@m%61in"},
		{"r.yml@100%", "r.yml@100%25", refused, "r.yml@100%25", refused},
		{"r.yml@100%25", "r.yml@100%2525", "r.yml@100%25", "r.yml@100%2525", "r.yml@100%25"},
		{"r.yml@é", "r.yml@%C3%A9", "r.yml@%C3%A9", "r.yml@%C3%A9", "r.yml@%C3%A9"},
		{"r.yml@%C3%A9", "r.yml@%25C3%25A9", refused, "r.yml@%25C3%25A9", refused},
		{"r.yml@a#1", "r.yml@a%231", "r.yml@a#1", "r.yml@a%231", "r.yml@a%231"},
		{"r.yml@a%231", "r.yml@a%25231", "r.yml@a%231", "r.yml@a%25231", refused},
		{"r.yml?x=1@a", refused, "r.yml?x=1@a", refused, "r.yml%3Fx=1@a"},
		{"r#x.yml@a", refused, "r#x.yml@a", refused, "r%23x.yml@a"},
		{"(r)[x].yml@a", "%28r%29%5Bx%5D.yml@a", "(r)[x].yml@a", "%28r%29%5Bx%5D.yml@a", "(r)[x].yml@a"},
		{"x y.yml@refs/%2e%2e%2fv", refused, refused, refused, refused},
		{"x.yml@../../v", refused, "x.yml@../../v", refused, refused},
		{"x//y.yml@a", refused, "x//y.yml@a", refused, refused},
		{`x\y.yml@a`, refused, "x%5Cy.yml@a", refused, "x%5Cy.yml@a"},
		{"x.yml@a\u202e", refused, refused, refused, refused},
	} {
		for target, want := range map[string]string{
			"github-workflow": c.ours, "github-workflow compat": c.fulcio,
			"type github-workflow": c.fixed, "type github-workflow compat": c.fixedFulcio,
		} {
			n := byName[target]
			base := "https://ci.example.com/o/r/.github/workflows/"
			if n.mapper.Profile == "" {
				base = "https://github.com/o/r/.github/workflows/"
			}
			all := token.Claims(maps.Clone(n.claims))
			all["job_workflow_ref"] = "o/r/.github/workflows/" + c.file
			id, err := n.mapper.Identity(all)
			switch {
			case want == refused && (err == nil || fault.From(err).Meta["claim"] != "job_workflow_ref"):
				t.Errorf("%s: %q gives %q, %v", target, c.file, id.SAN.Value, err)
			case want != refused && (err != nil || id.SAN.Value != base+want):
				t.Errorf("%s: %q gives %q, %v; want %q", target, c.file, id.SAN.Value, err, want)
			}
		}
	}
}
