package migrate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds on the documents of other programs.
const (
	maxDocuments = 5000
	maxDepth     = 64
	maxNodes     = 200_000
)

// documents parses YAML or JSON with any number of documents. Each one is made of map[string]any, []any, string, bool,
// int, float64 and nil; aliases are resolved within the bounds.
func documents(data []byte) ([]any, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var out []any
	nodes := 0
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("the text is not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		}
		v, err := plain(&n, 0, &nodes)
		if err != nil {
			return nil, err
		}
		if v == nil {
			continue // an empty document
		}
		if out = append(out, v); len(out) > maxDocuments {
			return nil, fmt.Errorf("the text has more than %d documents", maxDocuments)
		}
	}
}

func plain(n *yaml.Node, depth int, nodes *int) (any, error) {
	if *nodes++; depth > maxDepth || *nodes > maxNodes {
		return nil, fmt.Errorf("line %d: the value is nested too deeply, or too large", n.Line)
	}
	switch n.Kind {
	case yaml.DocumentNode:
		if len(n.Content) == 0 {
			return nil, nil
		}
		return plain(n.Content[0], depth, nodes)
	case yaml.AliasNode:
		return plain(n.Alias, depth+1, nodes)
	case yaml.SequenceNode:
		out := make([]any, 0, len(n.Content))
		for _, c := range n.Content {
			v, err := plain(c, depth+1, nodes)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		return out, nil
	case yaml.MappingNode:
		return plainMap(n, depth, nodes)
	}
	var v any
	if err := n.Decode(&v); err != nil {
		return nil, fmt.Errorf("line %d: %s", n.Line, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	switch v.(type) {
	case nil, bool, int, float64, string:
		return v, nil
	}
	return n.Value, nil // a date, or a number that is too large: as it is written
}

func plainMap(n *yaml.Node, depth int, nodes *int) (any, error) {
	out := make(map[string]any, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		for key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		v, err := plain(n.Content[i+1], depth+1, nodes)
		if err != nil {
			return nil, err
		}
		if key.Tag == "!!merge" {
			merge(out, v)
			continue
		}
		if key.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("line %d: a key is not a text", key.Line)
		}
		out[key.Value] = v
	}
	return out, nil
}

// merge adds the members of "<<", which do not replace others.
func merge(out map[string]any, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, one := range v {
			if _, ok := out[k]; !ok {
				out[k] = one
			}
		}
	case []any:
		for _, one := range v {
			merge(out, one)
		}
	}
}

// parseSettings parses a settings file of Fulcio by the ending of its name. Keys are in lower case, because Fulcio does
// not distinguish them.
func parseSettings(data []byte, ext string) (map[string]any, error) {
	switch strings.ToLower(ext) {
	case ".yaml", ".yml":
	case ".json":
		if !json.Valid(data) {
			return nil, errors.New("the text is not JSON")
		}
	case ".toml", ".env", ".dotenv":
		return nil, fmt.Errorf("this command reads YAML and JSON; write the settings of the %s file as a YAML file "+
			"with the same names, and name that one", ext)
	default:
		return nil, fmt.Errorf("Fulcio refuses a settings file with the ending %q; it reads .yaml, .yml and .json", ext)
	}
	docs, err := documents(data)
	if err != nil {
		return nil, err
	}
	if len(docs) == 0 {
		return map[string]any{}, nil
	}
	m, ok := docs[0].(map[string]any)
	if !ok {
		return nil, errors.New("the text is not a mapping of settings")
	}
	return lower(m), nil
}

func lower(m map[string]any) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		if inner, ok := v.(map[string]any); ok {
			v = lower(inner)
		}
		out[strings.ToLower(k)] = v
	}
	return out
}

// at returns the member of a document at a path of keys; nil if there is none.
func at(v any, keys ...string) any {
	for _, k := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

// textAt returns a scalar of a document as text; "" if there is none.
func textAt(v any, keys ...string) string {
	switch v := at(v, keys...).(type) {
	case nil, map[string]any, []any:
		return ""
	case string:
		return v
	default:
		return fmt.Sprint(v)
	}
}

// listAt returns a list of a document.
func listAt(v any, keys ...string) []any {
	l, _ := at(v, keys...).([]any)
	return l
}

// textsAt returns the scalars of a list.
func textsAt(v any, keys ...string) []string {
	var out []string
	for _, one := range listAt(v, keys...) {
		out = append(out, textAt(one))
	}
	return out
}
