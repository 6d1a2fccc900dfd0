package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxVisits bounds the number of values in one document after aliases are expanded. A file of 1 MiB without nested
// aliases stays far below it.
const maxVisits = 200_000

// maxDepth bounds the depth of merged blocks.
const maxDepth = 32

// mark is the position of a setting.
type mark struct {
	key, value *yaml.Node
	on         bool // the value is true
	zero       bool // the value is a number or a duration of 0, which is the same as a missing setting
}

// tree is a document that was decoded into a Go value, with the position of each setting.
type tree struct {
	src      source
	allowGap bool // keys of Fulcio may have an empty string or list, as in Fulcio's files
	gap      bool // empty values are allowed in the current block
	marks    map[string]mark
	order    []string // the paths of marks, in the order of the document
	problems Problems
	visits   int
	isJSON   *bool // nil: not determined yet
	notJSON  bool  // the problem that the file is not JSON was reported
}

// pathKey returns a path as the key of a map. NUL cannot occur in a file.
func pathKey(path []string) string { return strings.Join(path, "\x00") }

// decode parses src into the struct that into points to. Keys must match strictly: the tag `yaml` exactly, the tag
// `alias` in any case. Errors are added to the problems of the tree; if there are any, the value MUST NOT be used.
func decode(src source, into any, allowGap bool) *tree {
	t := &tree{src: src, allowGap: allowGap, marks: map[string]mark{}}
	root, p := src.parse()
	if p != nil {
		t.problems = append(t.problems, *p)
		return t
	}
	t.marks[""] = mark{key: root, value: root}
	if allowGap && isConfigMap(root) {
		t.report(root, "this is a Kubernetes ConfigMap, and the issuer file is a value under its data:",
			"mount the ConfigMap and write the path of the file in it, or copy the value under "+
				"data: into a separate file")
		return t
	}
	t.value(root, reflect.ValueOf(into).Elem(), nil)
	return t
}

// isConfigMap reports whether the document is a Kubernetes ConfigMap, which contains files.
func isConfigMap(root *yaml.Node) bool {
	kind, version := "", false
	for i := 0; root.Kind == yaml.MappingNode && i+1 < len(root.Content); i += 2 {
		switch target(root.Content[i]).Value {
		case "kind":
			kind = target(root.Content[i+1]).Value
		case "apiVersion":
			version = true
		}
	}
	return version && (kind == "ConfigMap" || kind == "Secret")
}

// maxProblems bounds the number of problems that are collected for one file.
const maxProblems = 200

func (t *tree) report(n *yaml.Node, what, fix string) {
	if len(t.problems) >= maxProblems {
		return
	}
	t.problems = append(t.problems, t.src.problem(place{n.Line, n.Column}, what, fix))
}

// visit counts one value and reports whether the walk may continue.
func (t *tree) visit(n *yaml.Node) bool {
	t.visits++
	if t.visits == maxVisits {
		t.report(n, fmt.Sprintf("the aliases of this file unfold to more than %d values", maxVisits),
			"write the values out")
	}
	return t.visits < maxVisits
}

// target returns the node that an alias refers to, or n itself.
func target(n *yaml.Node) *yaml.Node {
	for i := 0; n.Kind == yaml.AliasNode && n.Alias != nil && i < maxDepth; i++ {
		n = n.Alias
	}
	return n
}

// value decodes n into v.
func (t *tree) value(n *yaml.Node, v reflect.Value, path []string) {
	if !t.visit(n) {
		return
	}
	to := target(n)
	if v.Kind() == reflect.Interface {
		t.free(n, v)
		return
	}
	if to.Kind == yaml.ScalarNode && to.ShortTag() == "!!null" {
		t.null(n, v, path)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		fresh := reflect.New(v.Type().Elem())
		t.value(n, fresh.Elem(), path)
		v.Set(fresh)
	case reflect.Struct:
		t.block(n, v, path)
	case reflect.Map:
		t.table(n, v, path)
	case reflect.Slice:
		t.list(n, v, path)
	default:
		t.scalar(n, v, path)
	}
}

// null refuses a key without a value, because it could mean the default or an empty value.
func (t *tree) null(n *yaml.Node, v reflect.Value, path []string) {
	if len(path) == 0 {
		t.report(n, "the file has no settings", "write a configuration; docs/config.md has an example")
		return
	}
	at := t.marks[pathKey(path)].key
	if at == nil {
		at = n
	}
	fix := "write a value or remove the key"
	if v.Kind() == reflect.Pointer && v.Type().Elem().Kind() == reflect.Struct {
		fix = fmt.Sprintf("write the settings below it, \"%s: {}\" for none of them, or remove the key", last(path))
	}
	t.report(at, "\""+last(path)+"\" has no value", fix)
}

// entry is one key of a mapping, its own or a merged one.
type entry struct {
	key, value *yaml.Node
	merged     bool
}

// entries lists the keys of mapping n, its own keys first and then merged ones ("<<").
func (t *tree) entries(n *yaml.Node, depth int) []entry {
	if depth > maxDepth {
		t.report(n, "blocks are merged into one another without end", "write the settings out")
		return nil
	}
	var own, merged []entry
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !t.visit(key) {
			return nil
		}
		if key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" {
			merged = append(merged, t.mergedEntries(value, depth)...)
			continue
		}
		own = append(own, entry{key: key, value: value})
	}
	return append(own, merged...)
}

func (t *tree) mergedEntries(n *yaml.Node, depth int) (out []entry) {
	sources := []*yaml.Node{n}
	if list := target(n); list.Kind == yaml.SequenceNode {
		sources = list.Content
	}
	for _, one := range sources {
		block := target(one)
		if block.Kind != yaml.MappingNode {
			t.report(one, "\"<<\" merges "+kindOf(block)+", not a block of settings",
				"write an alias of a block, such as \"<<: *name\"")
			continue
		}
		for _, e := range t.entries(block, depth+1) {
			e.merged = true
			out = append(out, e)
		}
		if t.visits >= maxVisits {
			return nil
		}
	}
	return out
}

// keyText returns the text of a key, which may be an alias.
func (t *tree) keyText(n *yaml.Node) (string, bool) {
	to := target(n)
	if to.Kind != yaml.ScalarNode {
		t.report(n, "a key must be a text, not "+kindOf(to), "write the key in one line, as in \"name: value\"")
		return "", false
	}
	if to.ShortTag() == "!!null" || to.Value == "" {
		t.report(n, "an empty key", "write the name of a setting before the colon")
		return "", false
	}
	return to.Value, true
}

// mapping checks that n is a mapping.
func (t *tree) mapping(n *yaml.Node, path []string) (*yaml.Node, bool) {
	to := target(n)
	if to.Kind == yaml.MappingNode {
		return to, true
	}
	where := "the file"
	if len(path) > 0 {
		where = "\"" + last(path) + "\""
	}
	t.report(n, fmt.Sprintf("%s must be a block of settings, not %s", where, kindOf(to)),
		"write its settings as \"name: value\", one per line, indented below the key")
	return nil, false
}

// block decodes a mapping into a struct.
func (t *tree) block(n *yaml.Node, v reflect.Value, path []string) {
	m, ok := t.mapping(n, path)
	if !ok {
		return
	}
	fields := fieldsOf(v.Type())
	seen := map[string]entry{} // by the field's name, whichever spelling was used
	for _, e := range t.entries(m, 0) {
		text, ok := t.keyText(e.key)
		if !ok {
			continue
		}
		f := fields.find(text)
		if f == nil {
			t.unknown(e.key, fields, path)
			continue
		}
		if first, dup := seen[f.name]; dup {
			if !e.merged {
				t.duplicate(e.key, text, first.key)
			}
			continue
		}
		if text != f.name && !t.json() {
			t.otherSpelling(e.key, text, f.name)
			continue
		}
		seen[f.name] = e
		if f.any {
			continue
		}
		outer := t.gap
		t.gap = f.gap || t.allowGap && f.alias != ""
		t.set(e, v.FieldByIndex(f.index), append(slices.Clone(path), f.name))
		t.gap = outer
	}
}

// table decodes a mapping into a map with string keys.
func (t *tree) table(n *yaml.Node, v reflect.Value, path []string) {
	m, ok := t.mapping(n, path)
	if !ok {
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	seen := map[string]entry{}
	for _, e := range t.entries(m, 0) {
		text, ok := t.keyText(e.key)
		if !ok {
			continue
		}
		if first, dup := seen[text]; dup {
			if !e.merged {
				t.duplicate(e.key, text, first.key)
			}
			continue
		}
		seen[text] = e
		value := reflect.New(v.Type().Elem()).Elem()
		t.set(e, value, append(slices.Clone(path), text))
		v.SetMapIndex(reflect.ValueOf(text).Convert(v.Type().Key()), value)
	}
}

// list decodes a sequence into a slice.
func (t *tree) list(n *yaml.Node, v reflect.Value, path []string) {
	to := target(n)
	if to.Kind != yaml.SequenceNode {
		t.report(n, fmt.Sprintf("\"%s\" must be a list, not %s", last(path), kindOf(to)),
			"write the entries in square brackets, or one per line after \"- \"")
		return
	}
	if len(to.Content) == 0 && !t.gap {
		t.report(n, fmt.Sprintf("\"%s\" is an empty list", last(path)), "write an entry or remove the key")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(to.Content), len(to.Content))
	for i, one := range to.Content {
		t.set(entry{key: one, value: one}, out.Index(i), append(slices.Clone(path), fmt.Sprint(i)))
		if t.visits >= maxVisits {
			return
		}
	}
	v.Set(out)
}

// set decodes the value of one entry and records its position.
func (t *tree) set(e entry, v reflect.Value, path []string) {
	k := pathKey(path)
	if _, again := t.marks[k]; !again {
		t.order = append(t.order, k)
	}
	on := target(e.value).Value == "true"
	m := mark{key: e.key, value: e.value, on: on}
	t.marks[k] = m
	t.value(e.value, v, path)
	m.zero = (v.CanInt() || v.CanUint() || v.CanFloat()) && v.IsZero()
	t.marks[k] = m
}

func (t *tree) duplicate(n *yaml.Node, text string, first *yaml.Node) {
	what := fmt.Sprintf("\"%s\" is set twice, first in line %d", text, first.Line)
	if other := target(first).Value; other != text {
		what = fmt.Sprintf("\"%s\" and \"%s\" in line %d are the same setting", text, other, first.Line)
	}
	t.report(n, what, "remove one of them")
}

// json reports whether the document is JSON. Only JSON may use the second spellings of keys.
func (t *tree) json() bool {
	if t.isJSON == nil {
		valid := json.Valid(t.src.data)
		t.isJSON = &valid
	}
	return *t.isJSON
}

// otherSpelling refuses a key in Fulcio's JSON spelling in a file that is not JSON, where Fulcio ignores it.
func (t *tree) otherSpelling(n *yaml.Node, text, name string) {
	if !bytes.HasPrefix(bytes.TrimSpace(t.src.data), []byte("{")) {
		t.report(n, fmt.Sprintf("%s is the spelling of a JSON file, and this is YAML", quoteShort(text)),
			fmt.Sprintf("write \"%s\"", name))
		return
	}
	if t.notJSON {
		return // one report is enough
	}
	t.notJSON = true
	var v any
	what, at := "the file is not JSON, and its keys are those of Fulcio's JSON form", place{n.Line, n.Column}
	if err := json.Unmarshal(t.src.data, &v); err != nil {
		what += ": " + err.Error()
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) && syntax.Offset > 0 {
			before := string(t.src.data[:syntax.Offset-1])
			at = place{
				1 + strings.Count(before, "\n"),
				1 + utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]),
			}
		}
	}
	t.problems = append(t.problems, t.src.problem(at, what,
		"correct the JSON (no comma after the last entry, no comments), or write the keys of the YAML form, such as "+
			"\""+name+"\""))
}

func (t *tree) unknown(n *yaml.Node, fields fields, path []string) {
	text, where := target(n).Value, ""
	if len(path) > 0 {
		where = " in \"" + last(path) + "\""
	}
	fix := "known here: " + strings.Join(fields.names(), ", ")
	if near := fields.nearest(text); near != "" {
		fix = fmt.Sprintf("did you mean \"%s\"?", near)
	}
	t.report(n, fmt.Sprintf("unknown key %s%s", quoteShort(text), where), fix)
}

func last(path []string) string {
	if len(path) == 0 {
		return ""
	}
	return path[len(path)-1]
}
