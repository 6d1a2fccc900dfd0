package config

import (
	"fmt"
	"reflect"

	"go.yaml.in/yaml/v3"
)

// free decodes a value of any type: a string, a boolean, a number, null, a list, or a mapping with string keys.
func (t *tree) free(n *yaml.Node, v reflect.Value) {
	out, ok := t.anything(n, 0)
	if ok && out != nil {
		v.Set(reflect.ValueOf(out))
	}
}

func (t *tree) anything(n *yaml.Node, depth int) (any, bool) {
	if !t.visit(n) || depth > maxDepth {
		return nil, false
	}
	to := target(n)
	switch to.Kind {
	case yaml.MappingNode:
		out := map[string]any{}
		for _, e := range t.entries(to, 0) {
			key, ok := t.keyText(e.key)
			if !ok {
				return nil, false
			}
			if _, again := out[key]; again {
				if !e.merged {
					t.report(e.key, fmt.Sprintf("%s is set twice", quoteShort(key)), "remove one of them")
				}
				continue
			}
			if out[key], ok = t.anything(e.value, depth+1); !ok {
				return nil, false
			}
		}
		return out, true
	case yaml.SequenceNode:
		out := make([]any, 0, len(to.Content))
		for _, one := range to.Content {
			v, ok := t.anything(one, depth+1)
			if !ok {
				return nil, false
			}
			out = append(out, v)
		}
		return out, true
	}
	var out any
	if err := to.Decode(&out); err != nil {
		t.report(n, quoteShort(to.Value)+" cannot be read", "put it in quotes")
		return nil, false
	}
	if _, isDate := out.(interface{ UnixNano() int64 }); isDate {
		return to.Value, true // a date without quotes is a string
	}
	return out, true
}
