package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/ceremony"
)

// schemaOf has what the generated schemas use of JSON Schema.
type schemaOf struct {
	Ref        string `json:"$ref"`
	Type       string
	Enum       []any
	Pattern    string
	Properties map[string]schemaOf
	Items      *schemaOf
	Additional any                 `json:"additionalProperties"`
	Defs       map[string]schemaOf `json:"$defs"`
}

// invalid lists what is wrong with a value that was decoded from YAML.
func (s schemaOf) invalid(defs map[string]schemaOf, at string, v any) (out []string) {
	wrong := func(format string, args ...any) { out = append(out, at+": "+fmt.Sprintf(format, args...)) }
	if s.Ref != "" {
		def, ok := defs[strings.TrimPrefix(s.Ref, "#/$defs/")]
		if !ok {
			wrong("no definition %s", s.Ref)
		}
		return append(out, def.invalid(defs, at, v)...)
	}
	if at, ok := v.(time.Time); ok { // an unquoted time is a text in the types of the program
		v = at.Format(time.RFC3339)
	}
	if s.Enum != nil && !slices.Contains(s.Enum, v) {
		wrong("%v is not one of %v", v, s.Enum)
	}
	switch v := v.(type) {
	case map[string]any:
		if s.Type != "object" {
			wrong("an object, not %s", s.Type)
		}
		for name, value := range v {
			property, ok := s.Properties[name]
			if !ok {
				wrong("unknown key %s", name)
				continue
			}
			out = append(out, property.invalid(defs, at+"."+name, value)...)
		}
	case []any:
		if s.Type != "array" || s.Items == nil {
			wrong("a list, not %s", s.Type)
			break
		}
		for _, value := range v {
			out = append(out, s.Items.invalid(defs, at+"[]", value)...)
		}
	case string:
		if s.Type != "string" || !regexp.MustCompile(s.Pattern).MatchString(v) {
			wrong("%q is not %s %s", v, s.Type, s.Pattern)
		}
	case int:
		if s.Type != "integer" {
			wrong("an integer, not %s", s.Type)
		}
	case bool:
		if s.Type != "boolean" {
			wrong("a boolean, not %s", s.Type)
		}
	default:
		wrong("%T", v)
	}
	return out
}

func planProblems(t *testing.T, text string) []string {
	t.Helper()
	data, ok := Schema("plan")
	var s schemaOf
	if err := json.Unmarshal(data, &s); err != nil || !ok {
		t.Fatal(err)
	}
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return s.invalid(s.Defs, "plan", v)
}

// Each plan of the documentation and of the tests of the program is valid under the schema.
func TestPlanSchema(t *testing.T) {
	t.Parallel()
	var plans []string
	fence := regexp.MustCompile("(?ms)^```yaml\n(# plan.yaml\n.*?)^```$")
	section := regexp.MustCompile(`(?ms)^-- (?:\w*plan\w*|other)\.yaml --\n(.*?)(?:^-- |\z)`)
	for glob, pattern := range map[string]*regexp.Regexp{
		"../docs/*.md": fence, "../cmd/mayfly/testdata/script/*.txtar": section,
	} {
		files, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range pattern.FindAllStringSubmatch(string(data), -1) {
				plans = append(plans, m[1])
				if problems := planProblems(t, m[1]); len(problems) > 0 {
					t.Errorf("%s: %v\n%s", file, problems, m[1])
				}
			}
		}
	}
	if len(plans) < 3 {
		t.Errorf("%d plans", len(plans))
	}
	for text, want := range map[string]string{
		"root: {subject: {common: x}}":               "plan.root.subject: unknown key common",
		"root: {valid_for: 15 years}":                `plan.root.valid_for: "15 years" is not string`,
		"root: {path_length: one}":                   `plan.root.path_length: "one" is not integer`,
		"issuing: {generate: dsa}":                   "plan.issuing.generate: dsa is not one of",
		"purpose: tls":                               "plan.purpose: tls is not one of",
		"issuing: {key: {tink: {password: x}}}":      "plan.issuing.key.tink: unknown key password",
		"sign_transcript: 1":                         "plan.sign_transcript: an integer, not boolean",
		"root: []":                                   "plan.root: a list, not object",
		"root: {not_before: 2027-01-01T00:00:00Z}":   "",
		"root: {key: {kms: {key: \"openbao://k\"}}}": "",
	} {
		problems := planProblems(t, text)
		if strings.Join(problems, "; ") != want &&
			(want == "" || len(problems) != 1 || !strings.HasPrefix(problems[0], want)) {
			t.Errorf("%s: %q, want %q", text, problems, want)
		}
	}
}

// The schema has each field of a plan, at every depth.
func TestPlanSchemaIsComplete(t *testing.T) {
	t.Parallel()
	data, _ := Schema("plan")
	var s schemaOf
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	seen := 0
	var walk func(at string, typ reflect.Type, s schemaOf)
	walk = func(at string, typ reflect.Type, here schemaOf) {
		if here.Ref != "" {
			here = s.Defs[strings.TrimPrefix(here.Ref, "#/$defs/")]
		}
		for typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for i := range typ.NumField() {
			if !typ.Field(i).IsExported() {
				continue
			}
			name := typ.Field(i).Tag.Get("yaml")
			property, ok := here.Properties[name]
			if seen++; name == "" || !ok {
				t.Errorf("%s.%s is not in the schema", at, typ.Field(i).Name)
				continue
			}
			walk(at+"."+name, typ.Field(i).Type, property)
		}
	}
	walk("plan", reflect.TypeFor[ceremony.Plan](), s)
	if seen < 100 {
		t.Errorf("%d fields", seen)
	}
}
