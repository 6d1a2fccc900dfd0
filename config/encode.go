package config

import (
	"bytes"
	"cmp"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/ca/signer/backends"
)

// KeyBackend returns the block ca of a configuration with this key backend, without the settings that have no value.
func KeyBackend(t backends.Table) ([]byte, error) {
	return Encode(struct {
		CA backends.Table `yaml:"ca"`
	}{t})
}

// Encode returns a struct of settings in YAML, without the settings that have no value.
func Encode(settings any) ([]byte, error) {
	node := encode(reflect.ValueOf(settings))
	if node == nil {
		return nil, nil
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(node); err != nil {
		return nil, err
	}
	return out.Bytes(), enc.Close()
}

// encode is the reverse of decode for settings. It returns nil for a value that is not set.
func encode(v reflect.Value) *yaml.Node {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		if n := encode(v.Elem()); n != nil {
			return n
		}
		return &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	case reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for _, f := range fieldsOf(v.Type()) {
			if value := encode(v.FieldByIndex(f.index)); value != nil {
				n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: f.name}, value)
			}
		}
		if len(n.Content) == 0 {
			return nil
		}
		return n
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for i := range v.Len() {
			if value := encode(v.Index(i)); value != nil {
				n.Content = append(n.Content, value)
			}
		}
		if len(n.Content) == 0 {
			return nil
		}
		return n
	case reflect.Map:
		n := &yaml.Node{Kind: yaml.MappingNode}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) })
		for _, k := range keys {
			if value := encode(v.MapIndex(k)); value != nil {
				n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: k.String()}, value)
			}
		}
		if len(n.Content) == 0 {
			return nil
		}
		return n
	}
	if v.IsZero() {
		return nil
	}
	n := &yaml.Node{}
	if v.Kind() == reflect.String {
		n.SetString(v.String())
		return n
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: printed(v)}
}
