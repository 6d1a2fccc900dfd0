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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer/backends"
	"github.com/mayfly-ca/mayfly/canary"
	"github.com/mayfly-ca/mayfly/ceremony"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/remote"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/oidc/claims"
	"github.com/mayfly-ca/mayfly/pop"
	"github.com/mayfly-ca/mayfly/reconcile"
	"github.com/mayfly-ca/mayfly/tlog"
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
	startsWithVerb = regexp.MustCompile(`^(is|are|has|says|means) `)
	goLink         = regexp.MustCompile(` See \[\w+\]\.|\[(\w+)\]`)
	defaultOf      = regexp.MustCompile(` ?(Default|When omitted): (.+?)\.$`)
	goWords        = regexp.MustCompile(`\bnil\b|\b[a-z]+[A-Z]\w*\(|\[\w+\]`)
)

// sentence converts a Go comment to the terms of YAML.
func sentence(doc, field string) string {
	doc = strings.Join(strings.Fields(doc), " ")
	if rest, ok := strings.CutPrefix(doc, field+" "); ok {
		doc = startsWithVerb.ReplaceAllString(rest, "")
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
			"MappingConfig.Type": claims.Types(), "MappingConfig.Profile": profiles, "MappingConfig.Compat": {"fulcio"},
			"TestConfig.Expect": {"allow", "deny"},
			"Plan.Purpose":      {ceremony.CodeSigning, ceremony.Timestamping},
			"Part.Generate":     ceremony.Algorithms(),
			"Config.Subjects":   {journal.SubjectsPlain, journal.SubjectsDigest},
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

// ownerOf is the struct that contains f: t, or a struct that is inline in t.
func ownerOf(t reflect.Type, f field) reflect.Type {
	for _, i := range f.index[:len(f.index)-1] {
		t = t.Field(i).Type
	}
	return t
}

func (g *generator) schema(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return map[string]any{
			"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`,
			"examples": []string{"30s", "24h"},
		}
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

// rows are the lines of a table: key, type, default, meaning. facts are the properties of the keys in the loader.
func (g *generator) rows(t reflect.Type, prefix string, facts keyFacts) (out []string) {
	for _, f := range fieldsOf(t) {
		if f.any {
			continue
		}
		field, owner := t.FieldByIndex(f.index), ownerOf(t, f)
		if owner == reflect.TypeFor[backends.Table]() && prefix != "ca." {
			if row := "| `" + prefix +
				"…` | block | required | A key backend, with the settings that it has below `ca`. |"; !slices.Contains(out, row) {
				out = append(out, row)
			}
			continue
		}
		inner, key := element(field.Type), prefix+f.name
		if inner.Kind() == reflect.Struct && field.Type.Kind() == reflect.Slice {
			key += "[]"
		}
		meaning, fallback := g.doc(owner, field.Name), ""
		if m := defaultOf.FindStringSubmatch(meaning); m != nil {
			meaning, fallback = strings.TrimSuffix(meaning, m[0]), m[2]
			if m[1] == "Default" && !strings.Contains(fallback, " ") {
				fallback = "`" + fallback + "`"
			}
		}
		if goWords.MatchString(meaning) {
			g.t.Errorf("the comment of %s.%s is for readers of Go, and the documentation shows it: %s", owner,
				field.Name, meaning)
		}
		switch {
		case facts.blocks[key] && inner.Kind() == reflect.Struct,
			facts.texts[key] && field.Type.Kind() == reflect.String:
			fallback = "required"
		case fallback == "" && inner.Kind() == reflect.Bool:
			fallback = "`false`"
		case fallback == "":
			fallback = "–"
		}
		kind := typeWords(field.Type, facts.paths[key])
		if e := g.enums[owner.Name()+"."+field.Name]; e != nil {
			kind = "`" + strings.Join(e, "`, `") + "`"
		}
		cells := []string{"`" + key + "`", kind, fallback, meaning}
		for i := range cells {
			cells[i] = strings.ReplaceAll(cells[i], "|", `\|`)
		}
		out = append(out, "| "+strings.Join(cells, " | ")+" |")
		if inner.Kind() == reflect.Struct && inner.NumField() > 0 && inner.PkgPath() != "time" {
			out = append(out, g.rows(inner, key+".", facts)...)
		}
	}
	return out
}

// element is what a pointer points to or a list is of, all the way down.
func element(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

// typeWords names a type in the terms of YAML. path says that the text is a path in the file system.
func typeWords(t reflect.Type, path bool) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "duration"
	case t.Kind() == reflect.Pointer:
		return typeWords(t.Elem(), path)
	case t == reflect.TypeFor[secret.Source]():
		return "secret"
	case t.Kind() == reflect.Slice:
		return "list of " + plural(typeWords(t.Elem(), path))
	case t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Interface:
		return "object"
	case t.Kind() == reflect.Map:
		return "map of " + plural(typeWords(t.Elem(), path))
	case t.Kind() == reflect.Struct:
		return "block"
	case t.Kind() == reflect.Bool:
		return "boolean"
	case t.Kind() == reflect.Float64:
		return "number"
	case t.Kind() == reflect.String && path:
		return "path"
	case t.Kind() == reflect.Interface:
		return "block"
	case t.Kind() == reflect.String:
		return "text"
	}
	return "integer"
}

func plural(word string) string { return word + "s" }

// keyFacts are the properties of the keys of a table in the loader.
type keyFacts struct {
	texts  map[string]bool // the block of this text is refused without it
	blocks map[string]bool // a configuration is refused without this block
	paths  map[string]bool // names something in the file system
}

// filled returns a value of t with every pointer set, every list and map with one element, and text in every string.
func filled(t reflect.Type, text string) reflect.Value {
	v := reflect.New(t).Elem()
	switch {
	case t == reflect.TypeFor[*secret.Source]() && text == "": // an empty one is refused for another reason
	case t.Kind() == reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		v.Elem().Set(filled(t.Elem(), text))
	case t.Kind() == reflect.Slice:
		v.Set(reflect.Append(v, filled(t.Elem(), text)))
	case t.Kind() == reflect.Map:
		v.Set(reflect.MakeMap(t))
		v.SetMapIndex(reflect.ValueOf("name"), filled(t.Elem(), text))
	case t.Kind() == reflect.String:
		v.SetString(text)
	case t.Kind() == reflect.Struct && t.PkgPath() != "time":
		for _, f := range fieldsOf(t) {
			if field := v.FieldByIndex(f.index); field.CanSet() && !f.any {
				field.Set(filled(field.Type(), text))
			}
		}
	}
	return v
}

// facts determines, by running the loader, which settings are made absolute and which empty ones are refused.
func facts() (main, issuer keyFacts) {
	name := func(path []string) string {
		return strings.NewReplacer(".0.", "[].", ".0", "", ".name", "").Replace(strings.Join(path, "."))
	}
	issuers := func(text string) map[string]oidc.IssuerConfig {
		one := filled(reflect.TypeFor[oidc.IssuerConfig](), text).Interface().(oidc.IssuerConfig)
		one.Type = "email" // the others need further settings
		return map[string]oidc.IssuerConfig{"name": one}
	}
	main = keyFacts{map[string]bool{}, map[string]bool{}, map[string]bool{}}
	issuer = keyFacts{map[string]bool{}, nil, map[string]bool{}}
	full := filled(reflect.TypeFor[Config](), "x").Interface().(Config)
	full.Issuers.Issuers = issuers("x")
	l := &loader{config: &full}
	l.paths = absolute(l.config, "/")
	l.issuerPaths = absolute(&full.Issuers, "/")
	for _, p := range l.paths {
		main.paths[name(p.path)] = true
	}
	main.paths["audit.reconcile.journals"] = true // patterns, which the loader does not store
	for _, p := range l.issuerPaths {
		issuer.paths[name(p.path[2:])] = true
	}
	// A text that is refused in an empty block is required there. Problems of blocks that contradict each other are not
	// about a text.
	bare := filled(reflect.TypeFor[Config](), "").Interface().(Config)
	unlogged := filled(reflect.TypeFor[Config](), "").Interface().(Config)
	var empty Config
	unlogged.CT.Logs, unlogged.CT.Embedded = nil, nil
	nothing := decode(source{"", []byte("production: true")}, &Config{}, false)
	for _, c := range []*Config{&bare, &unlogged, &empty} {
		l = &loader{config: c, main: &tree{marks: nothing.marks}}
		l.defaults()
		l.checkSettings()
		for _, path := range settingPaths(l.main.problems) {
			if c == &empty {
				main.blocks[name(path)] = true
			} else {
				main.texts[name(path)] = true
			}
		}
	}
	l.issuers = &tree{marks: nothing.marks}
	l.issuers.add((&oidc.Config{Issuers: issuers("")}).Check())
	for _, path := range settingPaths(l.issuers.problems) {
		issuer.texts[name(path[2:])] = true
	}
	return main, issuer
}

// settingPaths are the paths of the settings in the problems.
func settingPaths(problems Problems) (out [][]string) {
	for _, p := range problems {
		if path, _, ok := strings.Cut(p.What, ": "); ok && !strings.Contains(path, " ") {
			out = append(out, strings.Split(path, "."))
		}
	}
	return out
}

// G1: the published schemas and docs/config.md agree with the structs.
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
	check("schema/plan.json", g.document(reflect.TypeFor[ceremony.Plan](), "the plan of a ceremony"))
	check("schema/identity.json", g.document(reflect.TypeFor[oidc.Config](), "mayfly's issuer file"))
	page, err := os.ReadFile("../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	main, issuer := facts()
	for name, rows := range map[string][]string{
		"mayfly":  g.rows(reflect.TypeFor[Config](), "", main),
		"issuer":  g.rows(reflect.TypeFor[oidc.IssuerConfig](), "", issuer),
		"profile": g.rows(reflect.TypeFor[claims.ProfileConfig](), "", keyFacts{}),
	} {
		begin, end := "<!-- keys: "+name+" -->\n", "<!-- end of keys -->"
		head, rest, ok := strings.Cut(text, begin)
		_, tail, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("docs/config.md has no place for the keys of %s", name)
		}
		text = head + begin + "\n| key | type | default | meaning |\n|---|---|---|---|\n" + strings.Join(rows, "\n") +
			"\n\n" + end + tail
	}
	check("../docs/config.md", []byte(text))
}

// The documented defaults are those of the code.
func TestDocumentedDefaults(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	l := &loader{config: &Config{}}
	l.defaults()
	keys, err := pop.New(pop.Config{}, pop.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]any{
		"listen.http": l.config.Listen.HTTP, "listen.grpc": l.config.Listen.GRPC, "listen.admin": l.config.Listen.Admin,
		"ca.backdate": ca.Config{}.BackdateOrDefault(), "client_algorithms": strings.Join(keys.Algorithms(), ", "),
		"ct.logs[].max_merge_delay": remote.Config{}.MergeDelay(), "ct.logs[].embed": remote.Config{}.Embeds(),
		"ct.embedded.lead":      tlog.Config{}.LeadOrDefault(),
		"ct.policy.attempt":     ctlog.PolicyConfig{}.AttemptOrDefault(),
		"canary.interval":       (&canary.Config{}).Period(),
		"audit.reconcile.every": (&reconcile.Config{}).Period(),
		"audit.reconcile.lag":   (&reconcile.Config{}).LagOrDefault(),
	} {
		row := regexp.MustCompile("(?m)^\\| `" + regexp.QuoteMeta(key) +
			"` \\| [^|]+ \\| ([^|]+) \\|").FindSubmatch(page)
		if row == nil {
			t.Errorf("docs/config.md has no row %s", key)
			continue
		}
		got := strings.Trim(string(row[1]), "`")
		if want, ok := value.(time.Duration); ok {
			if d, err := time.ParseDuration(got); err != nil || d != want {
				t.Errorf("docs/config.md: the default of %s is %s, and the code has %s", key, got, want)
			}
		} else if want := fmt.Sprint(value); got != want {
			t.Errorf("docs/config.md: the default of %s is %s, and the code has %s", key, got, want)
		}
	}
}
