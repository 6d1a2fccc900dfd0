package secret_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/secret"
)

func TestRead(t *testing.T) { //nolint:paralleltest // it sets the environment
	t.Setenv("MAYFLY_TEST_SECRET", "from the environment\n")
	dir := t.TempDir()
	file := func(name, content string) *secret.Source {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return &secret.Source{File: path}
	}
	for name, c := range map[string]struct {
		source *secret.Source
		want   string
		err    string
	}{
		"none":                   {nil, "", ""},
		"environment":            {&secret.Source{Env: "MAYFLY_TEST_SECRET"}, "from the environment\n", ""},
		"not set":                {&secret.Source{Env: "MAYFLY_TEST_NO_SECRET"}, "", "not set or empty"},
		"file":                   {file("a", "text"), "text", ""},
		"one line end":           {file("b", "text\n\n"), "text\n", ""},
		"line end of elsewhere":  {file("c", "text\r\n"), "text", ""},
		"nothing but a line end": {file("d", "\n"), "", "is empty"},
		"typed":                  {secret.Typed([]byte("by hand")), "by hand", ""},
		"no file":                {&secret.Source{File: filepath.Join(dir, "nothing")}, "", "no such file"},
	} {
		got, err := c.source.Read()
		if string(got) != c.want || (err == nil) != (c.err == "") ||
			err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		source *secret.Source
		ok     bool
	}{
		{nil, true},
		{&secret.Source{Env: "A"}, true},
		{&secret.Source{File: "a"}, true},
		{&secret.Source{}, false},
		{&secret.Source{Env: "A", File: "a"}, false},
	} {
		if err := c.source.Check(); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.source, err)
		}
	}
}

func TestTypedIsNotPrinted(t *testing.T) {
	t.Parallel()
	s := secret.Typed([]byte("by hand"))
	if text := fmt.Sprintf("%v %+v %#v %v", s, *s, s,
		struct{ S *secret.Source }{s}); strings.Contains(text, "by hand") ||
		strings.Contains(text, hex.EncodeToString([]byte("by hand"))) {
		t.Error(text)
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
}
