package ceremony

import (
	"bytes"
	"encoding/json"
	"encoding/json/jsontext"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// leaves calls change for each value of a JSON document in turn, and visit with the document that has that one changed.
func leaves(t *testing.T, data []byte, visit func(path string, changed []byte)) {
	t.Helper()
	var doc any
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	emit := func(path string) {
		out, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		v := jsontext.Value(out)
		if err := v.Canonicalize(); err != nil {
			t.Fatal(err)
		}
		visit(path, append(v, '\n'))
	}
	var walk func(path string, v any, set func(any))
	walk = func(path string, v any, set func(any)) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				walk(path+"."+k, x, func(n any) { v[k] = n })
			}
		case []any:
			for i, x := range v {
				walk(fmt.Sprintf("%s.%d", path, i), x, func(n any) { v[i] = n })
			}
			if len(v) > 1 {
				set(v[:len(v)-1])
				emit(path + " shorter")
				set(v)
			}
		case string:
			for _, n := range []string{
				v + "x", strings.Replace(v, "A", "B", 1),
				strings.Replace(v, "2026", "2027", 1), "",
			} {
				if n != v {
					set(n)
					emit(path)
				}
			}
			set(v)
		case float64:
			set(v + 1)
			emit(path)
			set(v)
		case bool:
			set(!v)
			emit(path)
			set(v)
		}
	}
	walk("", doc, nil)
}

// Every change of a transcript is detected: always by its signature, and without the signature if the changed value is
// about a certificate or a file.
func TestTampering(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := unencrypted(dir)
	plan := FileInput("plan.yaml", []byte("the text of the plan"))
	r := run(t, p, Options{Tool: "test", PlanFile: &plan, Now: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)})
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "transcript.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := os.ReadFile(path + SignatureSuffix)
	if err != nil {
		t.Fatal(err)
	}
	replay := func(data, signature []byte) (bool, []Line) {
		tr, err := ParseTranscript(data)
		if err != nil {
			return false, nil
		}
		lines := tr.Replay(ReplayOptions{Plan: p, Data: data, Signature: signature, Dir: dir})
		return !Failed(lines), lines
	}
	if ok, lines := replay(data, signature); !ok {
		t.Fatalf("untouched: %+v", lines)
	}
	if ok, _ := replay(data, signature[:len(signature)-1]); ok {
		t.Error("a damaged signature verifies")
	}
	n := 0
	leaves(t, data, func(where string, changed []byte) {
		n++
		if ok, _ := replay(changed, signature); ok {
			t.Errorf("%s: changed, and the signature verifies", where)
		}
		// values that cannot be checked without the signature
		for _, free := range []string{".tool", ".keys", ".outputs", ".operation", ".plan.path"} {
			if strings.HasPrefix(where, free) && !strings.HasSuffix(where, ".sha256") {
				return
			}
		}
		if ok, lines := replay(changed, nil); ok {
			t.Errorf("%s: changed, and nothing notices without a signature: %+v", where, lines)
		}
	})
	if n < 60 {
		t.Errorf("only %d changes", n)
	}
	if _, err := ParseTranscript(bytes.Replace(data, []byte(`"format"`),
		[]byte(`"unknown":1,"format"`), 1)); err == nil {
		t.Error("an unknown member")
	}
	if _, err := ParseTranscript(append([]byte(" "), data...)); err == nil ||
		!strings.Contains(err.Error(), "canonical") {
		t.Errorf("another form: %v", err)
	}
	// Another plan, and another file instead of an output.
	other := unencrypted(dir)
	other.Issuing.ValidFor = time.Hour
	tr, err := ParseTranscript(data)
	if err != nil {
		t.Fatal(err)
	}
	if !Failed(tr.Replay(ReplayOptions{Plan: other, Data: data, Dir: dir})) {
		t.Error("the certificates are those of another plan")
	}
	if err := os.WriteFile(filepath.Join(dir, "chain.pem"), []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ok, _ := replay(data, signature); ok {
		t.Error("a chain that was exchanged")
	}
}

func FuzzParseTranscript(f *testing.F) {
	f.Add([]byte(`{"certificates":null,"format":"mayfly-ceremony/1","keys":null,"operation":"init","outputs":null,` +
		`"time":"2026-11-30T12:00:00Z"}` + "\n"))
	f.Add([]byte(`{"certificates":[{"certificate":"","profile":{"name":""},"public_key":"","serial":""}],"format":"mayfly-ceremony/1"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tr, err := ParseTranscript(data)
		if err != nil {
			return
		}
		again, err := tr.Marshal()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%q becomes %q, %v", data, again, err)
		}
		tr.Replay(ReplayOptions{Data: data, Signature: []byte{1}, Plan: testPlan("dir"), Dir: "nowhere"})
	})
}
