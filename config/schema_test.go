package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/oidc"
)

var update = flag.Bool("update", false, "write the schemas and the tables of docs/config.md")

// comments has the doc comment of every struct field of a package, by "Type.Field".
func comments(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		tree, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			s, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			for _, f := range s.Fields.List {
				for _, id := range f.Names {
					out[spec.Name.Name+"."+id.Name] = sentence(f.Doc.Text(), id.Name)
				}
			}
			return true
		})
	}
	return out
}

var (
	startsWithName = regexp.MustCompile(`^\w+ (is|are|has|says|means) `)
	goLink         = regexp.MustCompile(` See \[\w+\]\.|\[(\w+)\]`)
)

// sentence turns a Go comment into words for someone who writes YAML.
func sentence(doc, field string) string {
	doc = strings.Join(strings.Fields(doc), " ")
	if m := startsWithName.FindString(doc); m != "" && strings.HasPrefix(doc, field+" ") {
		doc = doc[len(m):]
	}
	doc = strings.TrimSpace(goLink.ReplaceAllString(doc, "$1"))
	if doc == "" {
		return ""
	}
	return strings.ToUpper(doc[:1]) + doc[1:]
}

// generator makes a schema and the rows of a table from the tags and comments of structs.
type generator struct {
	t     *testing.T
	docs  map[string]map[string]string // by package folder
	enums map[string][]string          // by "Type.Field"
	defs  map[string]any
}

func newGenerator(t *testing.T) *generator {
	t.Helper()
	var profiles []string
	for _, p := range oidc.Profiles() {
		profiles = append(profiles, p.Name)
	}
	return &generator{
		t: t, docs: map[string]map[string]string{}, defs: map[string]any{},
		enums: map[string][]string{
			"IssuerConfig.Type": oidc.Types(), "IssuerConfig.Profile": profiles, "IssuerConfig.Compat": {"fulcio"}, "VectorConfig.Expect": {"allow", "deny"},
			"Config.Subjects": {audit.SubjectsPlain, audit.SubjectsDigest},
		},
	}
}

func (g *generator) doc(t reflect.Type, field string) string {
	dir := filepath.FromSlash("../" + strings.TrimPrefix(t.PkgPath(), "github.com/mayfly-ca/mayfly/"))
	if g.docs[dir] == nil {
		g.docs[dir] = comments(g.t, dir)
	}
	text := g.docs[dir][t.Name()+"."+field]
	if text == "" {
		g.t.Errorf("%s.%s has no comment", t, field)
	}
	return text
}

// ownerOf is the struct that f stands in: t, or one that is inline in it.
func ownerOf(t reflect.Type, f field) reflect.Type {
	for _, i := range f.index[:len(f.index)-1] {
		t = t.Field(i).Type
	}
	return t
}

func (g *generator) schema(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return map[string]any{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`, "examples": []string{"30s", "24h"}}
	case t.Kind() == reflect.Pointer:
		return g.schema(t.Elem())
	case t.Kind() == reflect.Struct:
		return g.object(t)
	case t.Kind() == reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": g.schema(t.Elem())}
	case t.Kind() == reflect.Slice:
		return map[string]any{"type": "array", "items": g.schema(t.Elem())}
	case t.Kind() == reflect.Bool:
		return map[string]any{"type": "boolean"}
	case t.Kind() == reflect.String:
		return map[string]any{"type": "string"}
	case t.Kind() == reflect.Interface:
		return map[string]any{}
	case t.Kind() == reflect.Float64:
		return map[string]any{"type": "number"}
	}
	return map[string]any{"type": "integer"}
}

func (g *generator) object(t reflect.Type) map[string]any {
	name := strings.ReplaceAll(path.Base(t.PkgPath())+"."+t.Name(), ".", "-")
	ref := map[string]any{"$ref": "#/$defs/" + name}
	if g.defs[name] != nil {
		return ref
	}
	properties := map[string]any{}
	g.defs[name] = map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	for _, f := range fieldsOf(t) {
		field := t.FieldByIndex(f.index)
		s := map[string]any{}
		if !f.any {
			s = g.schema(field.Type)
		}
		if e := g.enums[ownerOf(t, f).Name()+"."+field.Name]; e != nil {
			s["enum"] = e
		}
		s["description"] = g.doc(ownerOf(t, f), field.Name)
		properties[f.name] = s
		if f.alias != "" {
			properties[f.alias] = s
		}
	}
	return ref
}

func (g *generator) document(t reflect.Type, title string) []byte {
	g.defs = map[string]any{}
	root := g.object(t)
	root["$schema"], root["title"], root["$defs"] = "https://json-schema.org/draft/2020-12/schema", title, g.defs
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(root); err != nil {
		g.t.Fatal(err)
	}
	return b.Bytes()
}

// rows are the lines of a table: key, meaning.
func (g *generator) rows(t reflect.Type, prefix string) (out []string) {
	for _, f := range fieldsOf(t) {
		if f.any {
			continue
		}
		field := t.FieldByIndex(f.index)
		inner, key := field.Type, prefix+f.name
		for {
			if inner.Kind() == reflect.Slice {
				inner, key = inner.Elem(), key+"[]"
				continue
			}
			if inner.Kind() != reflect.Pointer {
				break
			}
			inner = inner.Elem()
		}
		if inner.Kind() != reflect.Struct {
			key = strings.TrimSuffix(key, "[]")
		}
		out = append(out, fmt.Sprintf("| `%s` | %s |", key, strings.ReplaceAll(g.doc(ownerOf(t, f), field.Name), "|", `\|`)))
		if inner.Kind() == reflect.Struct && inner.NumField() > 0 && inner.PkgPath() != "time" {
			out = append(out, g.rows(inner, key+".")...)
		}
	}
	return out
}

// G1: the published schemas and docs/config.md say what the structs say.
func TestPublished(t *testing.T) {
	t.Parallel()
	g := newGenerator(t)
	check := func(name string, want []byte) {
		got, err := os.ReadFile(name)
		if *update {
			if err := os.WriteFile(name, want, 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the structs say; run: go test ./config -update (%v)", name, err)
		}
	}
	check("schema/mayfly.json", g.document(reflect.TypeFor[Config](), "mayfly.yaml"))
	check("schema/identity.json", g.document(reflect.TypeFor[oidc.Config](), "mayfly's issuer file"))
	page, err := os.ReadFile("../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for name, rows := range map[string][]string{
		"mayfly": g.rows(reflect.TypeFor[Config](), ""), "issuer": g.rows(reflect.TypeFor[oidc.IssuerConfig](), ""),
		"profile": g.rows(reflect.TypeFor[oidc.ProviderConfig](), ""),
	} {
		begin, end := "<!-- keys: "+name+" -->\n", "<!-- end of keys -->"
		head, rest, ok := strings.Cut(text, begin)
		_, tail, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("docs/config.md has no place for the keys of %s", name)
		}
		text = head + begin + "\n| key | meaning |\n|---|---|\n" + strings.Join(rows, "\n") + "\n\n" + end + tail
	}
	check("../docs/config.md", []byte(text))
}
