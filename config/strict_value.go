package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

var durationType = reflect.TypeFor[time.Duration]()

// scalar decodes a single value: a string, a boolean, a number, a duration.
func (t *tree) scalar(n *yaml.Node, v reflect.Value, path []string) {
	to := target(n)
	if to.Kind != yaml.ScalarNode {
		t.report(n, fmt.Sprintf("\"%s\" must be %s, not %s", last(path), typeName(v.Type()), kindOf(to)),
			"write one value")
		return
	}
	switch {
	case v.Type() == durationType:
		t.duration(n, v, path)
	case v.Kind() == reflect.String:
		t.text(n, v, path)
	case v.Kind() == reflect.Bool:
		if to.ShortTag() != "!!bool" || (to.Value != "true" && to.Value != "false") {
			t.wrongType(n, v, path)
			return
		}
		v.SetBool(to.Value == "true")
	case v.CanInt(), v.CanUint(), v.CanFloat():
		t.number(n, v, path)
	default:
		// an error in a Config struct, which every test that loads it finds
		panic(fmt.Sprintf("config: a setting of type %v", v.Type()))
	}
}

// text accepts strings only. A number or a boolean is refused, because it would not keep its spelling: 010, 1e3, yes.
func (t *tree) text(n *yaml.Node, v reflect.Value, path []string) {
	to := target(n)
	switch tag := to.ShortTag(); tag {
	case "!!str", "!!timestamp": // a date without quotes is a string
	default:
		t.wrongType(n, v, path)
		return
	}
	if to.Value == "" && !t.gap {
		t.report(n, fmt.Sprintf("\"%s\" is empty", last(path)), "write a value or remove the key")
		return
	}
	v.SetString(to.Value)
}

func (t *tree) number(n *yaml.Node, v reflect.Value, path []string) {
	to := target(n)
	tag := to.ShortTag()
	if tag != "!!int" && (tag != "!!float" || !v.CanFloat()) {
		t.wrongType(n, v, path)
		return
	}
	fresh := reflect.New(v.Type())
	if err := to.Decode(fresh.Interface()); err != nil {
		t.report(n, fmt.Sprintf("\"%s\" does not hold the number %s", last(path), quoteShort(to.Value)),
			"write a smaller one")
		return
	}
	v.Set(fresh.Elem())
}

// duration accepts the syntax of Go's time.ParseDuration. A number alone is refused, because its unit is not visible.
func (t *tree) duration(n *yaml.Node, v reflect.Value, path []string) {
	to := target(n)
	if tag := to.ShortTag(); tag == "!!int" || tag == "!!float" {
		t.report(n, fmt.Sprintf("\"%s\" has no unit", last(path)),
			fmt.Sprintf("write \"%ss\" for seconds, or ms, m, h", to.Value))
		return
	}
	d, err := time.ParseDuration(to.Value)
	if err != nil || to.ShortTag() != "!!str" {
		t.report(n, fmt.Sprintf("\"%s\" must be a duration, not %s", last(path), quoteShort(to.Value)),
			"write a number and a unit (ms, s, m, h), such as \"20s\" or \"1h30m\"")
		return
	}
	v.SetInt(int64(d))
}

func (t *tree) wrongType(n *yaml.Node, v reflect.Value, path []string) {
	fix := "write a number, without quotes"
	switch v.Kind() {
	case reflect.Bool:
		fix = "write true or false, without quotes"
	case reflect.String:
		fix = "put it in quotes"
	}
	to := target(n)
	got := kindOf(to)
	if !looksSecret(strings.Join(path, ".")) {
		got += " (" + quoteShort(to.Value) + ")"
	}
	t.report(n, fmt.Sprintf("\"%s\" must be %s, not %s", last(path), typeName(v.Type()), got), fix)
}

// typeName returns the name of a type for authors of YAML.
func typeName(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration such as \"20s\""
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float32, t.Kind() == reflect.Float64:
		return "a number"
	case t.Kind() == reflect.String:
		return "a text"
	}
	return "a whole number"
}

// kindOf returns the name of the type of a value in the file.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a block of settings"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!bool":
		return "true or false"
	case "!!int", "!!float":
		return "a number"
	case "!!null":
		return "nothing"
	case "!!str":
		return "a text"
	case "!!timestamp":
		return "a date"
	}
	return "a value with the tag " + quoteShort(n.ShortTag())
}

// quoteShort quotes s for a message and shortens it to fit on a line.
func quoteShort(s string) string {
	if runes := []rune(s); len(runes) > 60 {
		s = string(runes[:60]) + "…"
	}
	return strconv.Quote(s)
}
