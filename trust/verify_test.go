package trust_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/trust"
)

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// good is the expectation that testdata/bundle.json meets. Its certificate has expired; the timestamp proves that it
// was valid.
func good(t testing.TB) trust.Expectation {
	t.Helper()
	return trust.Expectation{
		Identity: "alice@example.com", Issuer: "http://127.0.0.1:5556",
		Artifact: bytes.NewReader(testdata(t, "hello.txt")), NoRekor: true,
	}
}

func TestVerifyBundle(t *testing.T) {
	t.Parallel()
	v, err := trust.VerifyBundle(testdata(t, "trusted_root.json"), testdata(t, "bundle.json"), good(t))
	if err != nil {
		t.Fatal(err)
	}
	if v.Identity != "alice@example.com" || v.Issuer != "http://127.0.0.1:5556" || len(v.Times) != 1 ||
		v.Times[0].At.Year() != 2026 || v.SCTs != 1 || v.LogEntries != 0 {
		t.Errorf("%+v", v)
	}
	e := good(t)
	e.Artifact, e.Digest = nil, "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
	e.Identity, e.IdentityRegexp = "", `alice@example\.(com|org)`
	if _, err := trust.VerifyBundle(testdata(t, "trusted_root.json"), testdata(t, "bundle.json"), e); err != nil {
		t.Error(err)
	}
}

// Each case differs from the good case in one property, and the failure names the step.
func TestVerifyBundleFails(t *testing.T) {
	t.Parallel()
	root, bundle := testdata(t, "trusted_root.json"), testdata(t, "bundle.json")
	other, err := material().TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	without := func(member string) []byte {
		m, err := trust.ParseTrustedRoot(root)
		if err != nil {
			t.Fatal(err)
		}
		switch member {
		case "timestamps":
			m.Timestamps = nil
		case "authority":
			m.Authorities = material().Authorities
		case "log":
			m.Logs = material().Logs
		}
		out, err := m.TrustedRoot()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for name, c := range map[string]struct {
		root   []byte
		bundle []byte
		change func(*trust.Expectation)
		step   string
	}{
		"identity": {
			root, bundle,
			func(e *trust.Expectation) { e.Identity = "bob@example.com" }, "identity",
		},
		"issuer": {
			root, bundle,
			func(e *trust.Expectation) { e.Issuer = "https://issuer.example.com" }, "identity",
		},
		"a part of the identity": {
			root, bundle,
			func(e *trust.Expectation) { e.Identity, e.IdentityRegexp = "", "alice" }, "identity",
		},
		"one alternative's part": {
			root, bundle,
			func(e *trust.Expectation) { e.Identity, e.IdentityRegexp = "", "x|alice" }, "identity",
		},
		"artifact": {
			root, bundle,
			func(e *trust.Expectation) { e.Artifact = strings.NewReader("something else") }, "signature",
		},
		"digest": {
			root, bundle,
			func(e *trust.Expectation) { e.Artifact, e.Digest = nil, "sha256:"+strings.Repeat("0", 64) }, "signature",
		},
		"no log entry": {
			root, bundle, func(e *trust.Expectation) { e.NoRekor = false },
			"log of signatures",
		},
		"another root":           {other, bundle, nil, "time of the signature"},
		"another CA":             {without("authority"), bundle, nil, "certificate chain"},
		"another log":            {without("log"), bundle, nil, "certificate transparency"},
		"no timestamp authority": {without("timestamps"), bundle, nil, "time of the signature"},
		"changed signature": {root, bytes.Replace(bundle, []byte(`"signature":"MEU`),
			[]byte(`"signature":"MEQ`), 1), nil, ""},
		"a bundle without timestamp": {root, cutTimestamps(bundle), nil, "time of the signature"},
	} {
		e := good(t)
		if c.change != nil {
			c.change(&e)
		}
		_, err := trust.VerifyBundle(c.root, c.bundle, e)
		var f *trust.Failure
		if !errors.As(err, &f) || c.step != "" && (f.Step != c.step || f.Hint == "") {
			t.Errorf("%s: %v, want a failure of %q", name, err, c.step)
		}
	}
}

func cutTimestamps(bundle []byte) []byte {
	head, rest, _ := strings.Cut(string(bundle), `"rfc3161Timestamps":[`)
	_, tail, _ := strings.Cut(rest, "]")
	return []byte(head + `"rfc3161Timestamps":[]` + tail)
}

func TestVerifyBundleUsage(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*trust.Expectation){
		"no identity":     func(e *trust.Expectation) { e.Identity = "" },
		"two identities":  func(e *trust.Expectation) { e.IdentityRegexp = "a" },
		"no issuer":       func(e *trust.Expectation) { e.Issuer = "" },
		"no artifact":     func(e *trust.Expectation) { e.Artifact = nil },
		"bad expression":  func(e *trust.Expectation) { e.Identity, e.IdentityRegexp = "", "(" },
		"bad digest":      func(e *trust.Expectation) { e.Artifact, e.Digest = nil, "sha256:00" },
		"unknown digest":  func(e *trust.Expectation) { e.Artifact, e.Digest = nil, "md5:00112233445566778899aabbccddeeff" },
		"digest and file": func(e *trust.Expectation) { e.Digest = "sha256:" + strings.Repeat("0", 64) },
	} {
		e := good(t)
		change(&e)
		if _, err := trust.VerifyBundle(testdata(t, "trusted_root.json"), testdata(t, "bundle.json"),
			e); !errors.Is(err, trust.ErrUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzVerifyBundle(f *testing.F) {
	f.Add(testdata(f, "bundle.json"))
	f.Add([]byte("{}"))
	root := testdata(f, "trusted_root.json")
	original := testdata(f, "bundle.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		e := good(t)
		e.Artifact = strings.NewReader("another artifact\n")
		if v, err := trust.VerifyBundle(root, data, e); err == nil && !bytes.Equal(data, original) {
			t.Errorf("verified: %+v", v)
		}
	})
}
