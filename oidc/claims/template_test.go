package claims

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	gotemplate "text/template"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// D16: a template renders what Go's text/template renders, as Fulcio runs it.
func TestTemplateMeaning(t *testing.T) {
	t.Parallel()
	all := map[string]string{"a": "x", "b": "main", "c": "", "d/e": "y", "t": "true"}
	for src, want := range map[string]string{
		"a": "x", " a ": "x", "{{.a}}": "x", "{{ .a }}-{{ .b }}": "x-main", `{{index . "d/e"}}`: "y",
		`{{(index . "d/e")}}`:                "y",
		`{{if .c}}{{.c}}{{else}}none{{end}}`: "none", `{{if ne .b "main"}}tag{{else}}branch{{end}}`: "branch",
		`{{if and (eq .a "x") (eq .b "main")}}z{{end}}`: "z", `{{or .c "none"}}`: "none", `{{or .a "none"}}`: "x",
		`{{and .a .b}}`:            "main",
		`{{if not .c}}none{{end}}`: "none", `{{printf "https://ci.example.com/%s" .a}}`: "https://ci.example.com/x",
		`{{printf "%s%%%v" .a .b}}`:              "x%main",
		"{{- if eq .a \"x\" -}}  y  {{- end -}}": "y", `{{/* a comment */}}{{.a}}`: "x",
		`{{with .a}}[{{.}}]{{else}}none{{end}}`: "[x]",
		`{{with .c}}[{{.}}]{{else}}none{{end}}`: "none", `{{with .a}}{{$.b}}{{.}}{{end}}`: "mainx",
		`{{if .c}}1{{else if eq .a "y" "x"}}2{{else}}3{{end}}`: "2",
		`{{.a | printf "%s/%s" .b}}`:                           "main/x",
		`{{if eq .t "true"}}rerun{{else}}""{{end}}`:            "rerun",
		`{{"text"}}`: "text", "{{`raw`}}": "raw", `{{eq .a "x"}}`: "true",
		`{{with .a}}{{with $.b}}{{.}}{{end}}{{.}}{{end}}`: "mainx", `{{with .c}}1{{else with .b}}{{.}}{{end}}`: "main",
		`{{if or .c (eq .a "x")}}y{{end}}`:                               "y",
		`refs/{{if eq .a "branch"}}heads/{{ else }}tags/{{end}}{{ .b }}`: "refs/tags/main",
	} {
		if got, ok := renderedHere(t, src, all); !ok || got != want {
			t.Errorf("%s gives %q, %t; want %q", src, got, ok, want)
		}
		if strings.Contains(src, "{{") {
			if got, ok := renderedByGo(t, src, all); !ok || got != want {
				t.Errorf("%s: text/template gives %q, %t; want %q", src, got, ok, want)
			}
		}
	}
	// An absent claim is an error that names the claim, unless it is written with index and is the whole template or
	// only tested.
	for src, missing := range map[string]string{
		"z": "z", "{{.z}}": "z", "{{if .z}}x{{end}}": "z", `{{index . "z"}}/`: "z",
		`{{printf "%s" (index . "z")}}`: "z", `{{eq .z "x"}}x`: "z",
		`{{index . "z"}}`: "", `{{if index . "z"}}x{{end}}`: "", `{{if eq (index . "z") "x"}}x{{end}}`: "",
		`{{with index . "z"}}{{.}}{{end}}`: "", `{{or (index . "z") ""}}`: "",
	} {
		parsed, err := parseTemplate(src)
		if err != nil {
			t.Fatalf("%s: %v", src, err)
		}
		text, err := parsed.extension(values{claims: token.Claims{"a": "x"}})
		if missing == "" && (err != nil || text != "") ||
			missing != "" && (err == nil || fault.From(err).Meta["claim"] != missing) {
			t.Errorf("%s: %q, %v", src, text, err)
		}
	}
}

func renderedHere(t *testing.T, src string, all map[string]string) (string, bool) {
	t.Helper()
	parsed, err := parseTemplate(src)
	if err != nil {
		t.Errorf("%s: %v", src, err)
		return "", false
	}
	c := token.Claims{}
	for k, v := range all {
		c[k] = v
	}
	text, err := parsed.extension(values{claims: c, lenient: true})
	return text, err == nil
}

func renderedByGo(t *testing.T, src string, all map[string]string) (string, bool) {
	t.Helper()
	parsed, err := gotemplate.New("").Option("missingkey=error").Parse(src)
	if err != nil {
		t.Errorf("%s: %v", src, err)
		return "", false
	}
	var b strings.Builder
	err = parsed.Execute(&b, all)
	return b.String(), err == nil
}

// randomTemplate returns a template of the supported constructs, at most depth levels deep.
func randomTemplate(r *rand.Rand, depth int) string {
	operand := func() string {
		return []string{
			".a", ".b", ".c", `"x"`, `""`, `(index . "d")`, `(or .c .a)`, `(and .a .b)`,
			`(printf "%s-" .b)`, "$.a",
		}[r.IntN(10)]
	}
	test := func() string {
		x, y := operand(), operand()
		return []string{
			x, "eq " + x + " " + y, "ne " + x + " " + y, "not " + x, "and " + x + " " + y,
			"or " + x + " " + y, fmt.Sprintf("and (eq %s %s) (not %s)", x, y, x),
		}[r.IntN(7)]
	}
	var b strings.Builder
	for range 1 + r.IntN(3) {
		switch k := r.IntN(6); {
		case depth > 0 && k == 0:
			fmt.Fprintf(&b, "{{if %s}}%s{{else if %s}}%s{{else}}%s{{end}}", test(), randomTemplate(r, depth-1), test(),
				randomTemplate(r, depth-1), randomTemplate(r, depth-1))
		case depth > 0 && k == 1:
			fmt.Fprintf(&b, "{{- with %s }}[{{.}}{{$.b}}]{{else}}%s{{end -}}", operand(), randomTemplate(r, depth-1))
		case k == 2:
			fmt.Fprintf(&b, `{{printf "%%s/%%s" %s %s}}`, operand(), operand())
		case k == 3:
			b.WriteString(" text ")
		default:
			fmt.Fprintf(&b, "{{ %s }}", operand())
		}
	}
	return b.String()
}

// D16: random templates, over claims that are all present, render what text/template renders.
func TestRandomTemplates(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	words := []string{"", "x", "main", "a-b", "é"}
	for range 2000 {
		src := "{{.a}}" + randomTemplate(r, 2)
		all := map[string]string{}
		for _, k := range []string{"a", "b", "c", "d"} {
			all[k] = words[r.IntN(len(words))]
		}
		got, ok := renderedHere(t, src, all)
		want, okGo := renderedByGo(t, src, all)
		if !ok || !okGo || got != want {
			t.Fatalf("%s over %v: %q, %t; text/template: %q, %t", src, all, got, ok, want, okGo)
		}
	}
}

// D13: of two forms of a template that render the same name, one is refused.
func TestForms(t *testing.T) {
	t.Parallel()
	for _, src := range []string{
		`https://h.example/{{if .a}}{{.a}}/{{end}}{{.b}}`, `https://h.example/{{or .a "none"}}/{{.b}}`,
		`https://h.example/{{if eq .a "x"}}x/{{.b}}{{else}}{{.b}}/x{{end}}`,
		`https://h.example/{{with .a}}{{.}}{{else}}none{{end}}/{{.b}}`,
		`https://h.example/{{if .a}}a/{{.a}}{{else}}b/{{.b}}{{end}}`,
	} {
		m := mapperFor(t, issuerOfNames, MappingConfig{Type: "ci-provider", CIProvider: "p"},
			map[string]ProfileConfig{"p": {SAN: src, Defaults: map[string]string{"a": ""}}})
		words := []string{"", "x", "y", "none", "a", "b", "x/y", "a/x", "%"}
		seen := map[string]string{}
		for _, a := range words {
			for _, b := range words {
				id, err := m.Identity(token.Claims{"iss": issuerOfNames, "sub": "s", "a": a, "b": b})
				if err != nil {
					continue
				}
				// the claims in the name: only b if a selects the form
				who := a + " + " + b
				if strings.HasSuffix(src, `b/{{.b}}{{end}}`) && a != "" {
					who = a
				}
				if strings.Contains(src, `eq .a "x"`) && a != "x" {
					who = "else + " + b
				}
				if other, again := seen[id.SAN.Value]; again && other != who {
					t.Errorf("%s: %q and %q are both %s", src, other, who, id.SAN.Value)
				}
				seen[id.SAN.Value] = who
			}
		}
		if len(seen) < 4 {
			t.Errorf("%s gives only %v", src, seen)
		}
	}
}

// D13: numbers are written exactly and in one way, or refused.
func TestDecimal(t *testing.T) {
	t.Parallel()
	small := "1." + strings.Repeat("0", 125) + "1"
	for in, want := range map[string]string{
		"0": "0", "-0": "0", "-0.0": "0", "7": "7", "1.50": "1.5", "1e2": "100", "1E+2": "100", "12.5e1": "125",
		"1e-3": "0.001", "0.10e1": "1", "100.0": "100",
		"12345678901234567890123": "12345678901234567890123", "-1.25e-1": "-0.125", small: small,
		"1e100": "1" + strings.Repeat("0", 100),
	} {
		if got, ok := decimal(in); !ok || got != want {
			t.Errorf("%s gives %q, %t; want %q", in, got, ok, want)
		}
	}
	for _, in := range []string{"1e5000", "1e-5000", "1e99999999999999999999", strings.Repeat("1", 3000)} {
		if got, ok := decimal(in); ok {
			t.Errorf("%.20s gives %.20q", in, got)
		}
	}
}

// D11: a domain with a star includes its subdomains, and no other domain with the same end.
func TestCovers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, domain string
		want            bool
	}{
		{"*.example.com", "a.example.com", true},
		{"*.example.com", "a.b.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", "evilexample.com", false},
		{"*.example.com", ".example.com", false},
		{"example.com", "example.com", true},
		{"example.com", "evilexample.com", false},
		{"example.com", "a.example.com", false},
	} {
		if got := covers(c.pattern, c.domain); got != c.want {
			t.Errorf("covers(%s, %s) = %t", c.pattern, c.domain, got)
		}
	}
	// The same with claims.
	m := mapperFor(t, issuerOfNames, MappingConfig{Type: "email", EmailDomains: []string{"*.Example.com"}}, nil)
	for address, want := range map[string]bool{
		"a@eu.example.com": true, "a@evilexample.com": false,
		"a@example.com": false, "a@eu.example.com.evil.org": false, "a@EU.EXAMPLE.COM": true,
	} {
		_, err := m.Identity(token.Claims{
			"iss": issuerOfNames, "sub": "s", "email": address,
			"email_verified": true,
		})
		if (err == nil) != want || err != nil && fault.From(err).Reason != fault.IdentityNotAllowed {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// D16: the checks of names also hold for extensions that have several parts, but their bytes are not encoded.
func TestExtensionParts(t *testing.T) {
	t.Parallel()
	const src = "https://h.example/{{.a}}/-/runs/{{.b}}"
	parsed, err := parseTemplate(src)
	if err != nil {
		t.Fatal(err)
	}
	for a, want := range map[string]string{
		"x/y": "https://h.example/x/y/-/runs/7", "a b": "https://h.example/a b/-/runs/7",
		"{x}": "https://h.example/{x}/-/runs/7", "r@refs/heads/#1": "https://h.example/r@refs/heads/#1/-/runs/7",
		"": "", "..": "", "x/../y": "", "%2e%2e": "", "x?y": "", "x#y": "", "/x": "", "x//y": "",
		`x\y`: "", "x/-/runs/1": "",
	} {
		got, err := parsed.extension(values{claims: token.Claims{"a": a, "b": "7"}})
		if got != want || (err == nil) != (want != "") || err != nil && fault.From(err).Meta["claim"] != "a" {
			t.Errorf("%q gives %q, %v; want %q", a, got, err, want)
		}
	}
}

// G1: compiling a template terminates, its result is limited in length, and it is never the Go formatting of a value.
func FuzzTemplateRender(f *testing.F) {
	for _, s := range []string{
		"a", "{{.a}}", `{{index . "b/c"}}`, `{{if eq .a "x"}}y{{else}}z{{end}}`,
		`{{with .a}}{{.}}{{end}}`, `{{or .a .b}}`, `{{printf "%s" .a}}`, "{{define \"x\"}}{{end}}",
	} {
		f.Add(s, "x", "")
	}
	f.Fuzz(func(t *testing.T, src, a, b string) {
		parsed, err := parseTemplate(src)
		if err != nil {
			return
		}
		if _, err := parsed.nameForms(values{}); err != nil {
			return
		}
		text, err := parsed.extension(values{claims: token.Claims{
			"a": a, "b": b, "list": []any{"x"},
			"object": map[string]any{"x": "y"},
		}})
		if err != nil {
			return
		}
		if len(text) > maxRendered || strings.Contains(text, "map[") && !strings.Contains(src+a+b, "map[") {
			t.Errorf("%q gives %q", src, text)
		}
		if tree, err := gotemplate.New("").Option("missingkey=error").Parse(src); err == nil &&
			strings.Contains(src, "{{") && !strings.Contains(src, "index") {
			var want strings.Builder
			if err := tree.Execute(&want, map[string]string{"a": a, "b": b}); err == nil && want.String() != text {
				t.Errorf("%q over %q and %q gives %q; text/template: %q", src, a, b, text, want.String())
			}
		}
	})
}
