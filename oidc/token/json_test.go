package token

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// byLibrary decodes an object with the standard library.
func byLibrary(data []byte) (map[string]any, bool) {
	if !utf8.Valid(data) || !json.Valid(data) {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil, false
	}
	m, ok := v.(map[string]any)
	return m, ok && levels(v) <= maxDepth
}

func levels(v any) int {
	deepest := -1
	switch v := v.(type) {
	case map[string]any:
		for _, one := range v {
			deepest = max(deepest, levels(one))
		}
	case []any:
		for _, one := range v {
			deepest = max(deepest, levels(one))
		}
	}
	return deepest + 1
}

// D5: the reader accepts the JSON objects that the standard library accepts, with the same values, and no others.
func FuzzParseObject(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { "a" : 1 } `, `{"a":[1,2.5e-3,-0,true,false,null,"x",{}]}`, `{"a":1,"a":2}`,
		`{"a":"\u00e4\ud83d\ude00\ud800\n"}`, `{"a":"\x"}`,
		`{"a":01}`, `{"a":1.}`, `{"a":1e}`, `{"a":-}`, `{"a":+1}`, `{"a":.5}`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`,
		`{"a":[1,]}`, `{"a":[,1]}`, `{a:1}`, `{"a":tru}`,
		`{"a":1}x`, `{"a":1}{}`, `[]`, `"a"`, `1`, ``, `{`, `{"`, `{"a":"`, `{"a":"\`, "{\"a\":\"\x01\"}",
		"{\"a\":\"\xff\"}", "\ufeff{}", `{"a":nul}`, `{"a":nullx}`, `{"\u0061":1,"a":2}`,
		`{"a":` + strings.Repeat("[", 15) + strings.Repeat("]", 15) + `}`,
		`{"a":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}`,
		`{"a":` + strings.Repeat("[", 17) + strings.Repeat("]", 17) + `}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, _, err := parseObject(data)
		want, ok := byLibrary(data)
		if ok != (err == nil) {
			t.Fatalf("%q: %v; the library says %t", data, err, ok)
		}
		if ok {
			if d := cmp.Diff(want, map[string]any(got)); d != "" {
				t.Fatalf("%q: %s", data, d)
			}
		}
	})
}

// D5: duplicate names are found in short and long objects, at every level.
func TestDeviations(t *testing.T) {
	t.Parallel()
	var long strings.Builder
	for i := range 200 {
		long.WriteString(`"` + strings.Repeat("n", i+1) + `":1,`)
	}
	for text, want := range map[string]bool{
		`{"a":1,"b":2}`: false, `{"a":1,"a":2}`: true, `{"a":1,"A":2}`: true, `{"a":{"b":1,"B":1}}`: true,
		`{"a":[{"b":1,"b":1}]}`: true, `{"a":{"a":1}}`: false,
		`{` + long.String() + `"x":1}`: false, `{` + long.String() + `"nnn":1}`: true, `{"ä":1,"Ä":1}`: true,
		`{"\u0061":1,"a":1}`:                 true,
		`{` + long.String() + `"x":1,"X":1}`: true,
	} {
		if _, deviation, err := parseObject([]byte(text)); err != nil || (deviation != nil) != want {
			t.Errorf("%.60s: %v, %v", text, deviation, err)
		}
	}
}

// D12 // D13: an unpaired surrogate is not a character: two subjects that differ only in one would get the same name in
// certificates.
func TestUnpairedSurrogates(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`"\ud83d\ude00"`: false, `"a\ud83d\ude00b\u00e4\n"`: false, `"\uD83D\uDE00"`: false, `"\\ud800"`: false,
		`"\\\\ud800"`: false, `"\ufffd"`: false,
		`"\ud800"`: true, `"\udc00"`: true, `"\ude00\ud83d"`: true, `"\ud800x"`: true, `"\ud800\n"`: true,
		`"\ud800\ud800\udc00"`: true, `"\\\ud800"`: true,
		`"\ud83d\ude00\udfff"`: true, `"\ud83d\u0041"`: true, `"\ud83d\\ude00"`: true, `"\ufffd\ud800"`: true,
	} {
		for _, object := range []string{`{"sub":` + text + `}`, `{` + text + `:1}`, `{"a":[` + text + `]}`} {
			if _, deviation, err := parseObject([]byte(object)); err != nil || (deviation != nil) != want {
				t.Errorf("%s: %v, %v", object, deviation, err)
			}
		}
	}
}

// D5: an object that is read without error or deviation is what the standard library reads.
func FuzzObject(f *testing.F) {
	f.Add(`{"a":1,"b":[true,null,{"c":"x"}]}`)
	f.Add(`{"a":1,"A":2}`)
	f.Add(`{"a":{"a":{"a":{}}}} `)
	f.Fuzz(func(t *testing.T, text string) {
		got, deviation, err := parseObject([]byte(text))
		if err != nil || deviation != nil {
			return
		}
		var want map[string]any
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		a, errA := json.Marshal(got)
		b, errB := json.Marshal(want)
		if errA != nil || errB != nil || len(got) != len(want) || len(a) == 0 || len(b) == 0 {
			t.Errorf("%q: %s, %s", text, a, b)
		}
	})
}
