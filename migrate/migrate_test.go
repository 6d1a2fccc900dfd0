package migrate_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/migrate"
)

var update = flag.Bool("update", false, "write the golden files")

// secretTexts are the secrets of the files in testdata, and the base64 forms of them.
var secretTexts = []string{"sesame", "c2VzYW1l", "pa$word", "pa$$word", "271828", "vanilla", "a2V5"}

// Each folder of testdata describes a Fulcio. The files that are made, and the report, are in its golden file.
func TestTranslate(t *testing.T) {
	t.Parallel()
	dirs, err := filepath.Glob("testdata/*/*.yaml")
	if err != nil || len(dirs) < 11 {
		t.Fatalf("%d folders, %v", len(dirs), err)
	}
	for _, name := range dirs {
		dir := filepath.Dir(name)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			plan := translated(t, dir)
			report, err := json.MarshalIndent(plan.Report, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range secretTexts {
				if strings.Contains(string(report), s) {
					t.Errorf("the report has the secret %q", s)
				}
			}
			got := string(report) + "\n" + files(plan)
			name := filepath.Join("testdata", filepath.Base(dir)+".golden")
			if *update {
				if err := os.WriteFile(name, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		})
	}
}

// translated translates the files of a folder.
func translated(t *testing.T, dir string) *migrate.Plan {
	t.Helper()
	p, err := migrate.Parse(inputs(t, dir), migrate.Where{
		Dir:       "/work",
		Variables: map[string]string{"HOME": "/home/u"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !p.Container {
		p.Dir = "."
	}
	plan, err := migrate.Translate(p, migrate.Options{Dir: "/out"})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func inputs(t *testing.T, dir string) []migrate.Input {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var out []migrate.Input
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, migrate.Input{Name: name, Data: data})
	}
	return out
}

// files returns the names and contents of the files of a plan.
func files(plan *migrate.Plan) string {
	var b strings.Builder
	for name, data := range plan.Files() {
		b.WriteString("-- " + name + " --\n" + strings.TrimSuffix(string(data), "\n") + "\n")
	}
	return b.String()
}

// A plan is written to a new directory; secrets are for their owner, and no file is replaced.
func TestWrite(t *testing.T) {
	t.Parallel()
	p, err := migrate.Parse(inputs(t, "testdata/helm-manifest"), migrate.Where{Dir: "/work"})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "out")
	plan, err := migrate.Translate(p, migrate.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := plan.Write(); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{
		"mayfly.yaml": 0o644, "secrets": 0o700, "secrets/ca-key.pem": 0o600, "secrets/ca-password": 0o600,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s has the mode %v, want %v", name, info.Mode().Perm(), mode)
		}
	}
	if err := os.Remove(filepath.Join(dir, "mayfly.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := plan.Write(); err == nil || !strings.Contains(err.Error(), "exists, and is not replaced") {
		t.Errorf("written twice: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "mayfly.yaml")); err == nil {
		t.Error("mayfly.yaml was written although another file exists")
	}
}

// Each flag is translated, named as a difference, or cannot be carried over: none is lost in silence.
func TestEveryFlag(t *testing.T) {
	t.Parallel()
	base := map[string][]string{
		"fileca":   {"--fileca-cert=/c", "--fileca-key=/k", "--fileca-key-passwd=p"},
		"kmsca":    {"--kms-resource=awskms:///k", "--kms-cert-chain-path=/c"},
		"tinkca":   {"--tink-kms-resource=aws-kms://k", "--tink-cert-chain-path=/c", "--tink-keyset-path=/k"},
		"pkcs11ca": {"--hsm-caroot-id=1"}, "googleca": {"--gcp_private_ca_parent=p"}, "ephemeralca": nil,
	}
	values := map[string]string{
		"ca": "ephemeralca", "client-signing-algorithms": "ed25519", "fileca-watch": "false", "gcp-kms-retries": "2",
		"gcp-kms-timeout": "2", "grpc-port": "1", "port": "2", "metrics-port": "3", "idle-connection-timeout": "1s",
		"read-header-timeout": "1s", "log_type": "prod", "ct-log-url": "https://ct.example.com",
	}
	authority := map[string]string{
		"aws-hsm-root-ca-path": "pkcs11ca", "hsm-key-label": "pkcs11ca", "pkcs11-config-path": "pkcs11ca",
		"hsm-caroot-id": "pkcs11ca", "gcp_private_ca_parent": "googleca", "gcp-kms-retries": "kmsca",
		"gcp-kms-timeout": "kmsca",
	}
	for _, f := range migrate.Flags() {
		if f.Name == "config" || f.Name == "help" {
			continue // TestTranslate has the first; the second starts no server
		}
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			ca := authority[f.Name]
			if ca == "" {
				ca = "ephemeralca"
			}
			for kind := range base {
				if strings.HasPrefix(f.Name, strings.TrimSuffix(kind, "ca")) {
					ca = kind
				}
			}
			args := append([]string{"serve", "--ca=" + ca}, base[ca]...)
			before := outcome(t, args)
			text := values[f.Name]
			if text == "" {
				text = "/other"
			}
			if f.Name == "grpc-tls-certificate" || f.Name == "grpc-tls-key" {
				args = append(args, "--grpc-tls-certificate=/x", "--grpc-tls-key=/y")
			}
			after := outcome(t, append(slices.Clone(args), "--"+f.Name+"="+text))
			if f.Name == "ca" {
				after = outcome(t, []string{
					"serve", "--ca=fileca", "--fileca-cert=/c", "--fileca-key=/k",
					"--fileca-key-passwd=p",
				})
			}
			if before == after {
				t.Errorf("--%s=%s changes neither a file nor the report", f.Name, text)
			}
		})
	}
}

// outcome returns the files and what the report says beside the list of settings.
func outcome(t *testing.T, args []string) string {
	t.Helper()
	plan, err := migrate.Translate(&migrate.Process{Name: "test", Args: args, Dir: "/"}, migrate.Options{Dir: "/out"})
	if err != nil {
		t.Fatal(err)
	}
	r := *plan.Report
	r.Settings = nil
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data) + files(plan)
}

// What Fulcio itself refuses, and what cannot be read, has an error that says what to do.
func TestRefused(t *testing.T) {
	t.Parallel()
	fileca := []string{"fulcio", "serve", "--ca=fileca", "--fileca-cert=c", "--fileca-key=k"}
	for name, c := range map[string]struct {
		args []string
		env  map[string]migrate.Variable
		want string
	}{
		"no serve":        {[]string{"fulcio", "createca"}, nil, `has no "serve"`},
		"no ca":           {[]string{"serve"}, nil, "refuses to start without --ca"},
		"unknown ca":      {[]string{"serve", "--ca=x"}, nil, "Fulcio has no --ca=x"},
		"no password":     {fileca, nil, "--ca=fileca needs --fileca-key-passwd"},
		"unknown flag":    {append(fileca, "--http=1"), nil, "unknown flag: --http"},
		"help":            {append(fileca, "--help"), nil, "asks for help"},
		"port":            {[]string{"serve", "--ca=ephemeralca", "--port=70000"}, nil, "--port=70000 is not a port"},
		"log":             {[]string{"serve", "--ca=ephemeralca", "--ct-log-url=ct"}, nil, "not the http or https URL"},
		"log with a user": {[]string{"serve", "--ca=ephemeralca", "--ct-log-url=https://a:b@c"}, nil, "not the http"},
		"settings file":   {[]string{"serve", "-c", "x.toml"}, nil, "no such file"},
		"ca by environment, port by flag": {
			[]string{"serve", "--port=x"},
			map[string]migrate.Variable{"FULCIO_SERVE_CA": {Text: "ephemeralca"}},
			"--port=x is not a port",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := migrate.Translate(&migrate.Process{Name: "test", Args: c.args, Env: c.env, Dir: "/none"},
				migrate.Options{Dir: "/out"})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "a:b") {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestParseRefused(t *testing.T) {
	t.Parallel()
	deployment := `{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "NAME"}, "spec": {"template":
{"spec": {"containers": [{"image": "fulcio", "args": ["serve", "--ca=CA", "--hsm-caroot-id=1"]}]}}}}` + "\n---\n"
	a := strings.NewReplacer("NAME", "a", "CA", "ephemeralca").Replace(deployment)
	b := strings.NewReplacer("NAME", "b", "CA", "pkcs11ca").Replace(deployment)
	for name, c := range map[string]struct{ text, workload, want string }{
		"nothing":  {"a: 1", "", "no Fulcio was found"},
		"not YAML": {"a: [", "", "the text is not YAML"},
		"several":  {a + b, "", "there are several: a, b; name one with --workload"},
		"several that differ in another flag": {
			a + strings.Replace(a, `"--ca=`, `"--log_type=prod", "--ca=`, 1), "",
			"there are several: a; name one",
		},
		"another":     {a + b, "c", `there is no "c"; there is a, b`},
		"one of them": {a + b, "b", ""},
		"unknown CA type": {`{"apiVersion": "rhtas.redhat.com/v1alpha1", "kind": "Fulcio", "metadata": {"name": "x"},
"spec": {"certificate": {"caType": "other"}}}`, "", `the caType "other" is not known`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := migrate.Parse([]migrate.Input{{Name: "f.yaml", Data: []byte(c.text)}},
				migrate.Where{Dir: "/", Workload: c.workload})
			if c.want == "" && err == nil {
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// deployment returns a Deployment with a key in a file, and with environment variables in the form of JSON.
func deployment(env string) string {
	return `{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "fulcio"}, "spec": {"template":
{"spec": {"containers": [{"image": "fulcio", "args": ["serve", "--ca=fileca", "--fileca-cert=/c", "--fileca-key=/k",
"--fileca-key-passwd=$(PASSWORD)"], "env": [` + env + `]}]}}}}` + "\n"
}

func parsed(t *testing.T, text string) *migrate.Process {
	t.Helper()
	p, err := migrate.Parse([]migrate.Input{{Name: "f.yaml", Data: []byte(text)}}, migrate.Where{Dir: "/"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A password of which a Secret has only a part is not written without the other part.
func TestPartOfAPassword(t *testing.T) {
	t.Parallel()
	const secret = `{"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}, `
	for value, want := range map[string]string{
		"$(SECRET)": "", "x$(SECRET)": "is in a Secret", "$(SECRET)x": "is in a Secret",
	} {
		p := parsed(t, deployment(secret+`{"name": "PASSWORD", "value": "`+value+`"}`))
		_, err := migrate.Translate(p, migrate.Options{Dir: "/out"})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", value, err, want)
		}
	}
}

// The expressions ${…} of a Compose file that this command does not evaluate are refused; others have their value.
func TestComposeVariables(t *testing.T) {
	t.Parallel()
	for expression, want := range map[string]string{
		"$SET": "1", "${SET}": "1", "${SET:-2}": "1", "${SET:?write A-B}": "1", "${SET?}": "1", "${EMPTY-2}": "",
		"${EMPTY:-2}": "2", "${NONE:-2}": "2", "${NONE-2}": "2", "${NONE}": "", "${SET:-$OTHER}": "1",
		"${NONE:?write A-B}": "refused", "${NONE?write A-B}": "refused", "${EMPTY:?a}": "refused", "${}": "refused",
		"${SET:+2}": "refused", "${NONE:-${SET}}": "refused", "${NONE:-$SET}": "refused", "${-2}": "refused",
	} {
		text := "services: {fulcio: {image: fulcio, command: [serve, '--hsm-key-label=" + expression + "']}}"
		p, err := migrate.Parse([]migrate.Input{{Name: "f.yaml", Data: []byte(text)}},
			migrate.Where{Dir: "/", Variables: map[string]string{"SET": "1", "EMPTY": ""}})
		switch {
		case want == "refused":
			if err == nil || !strings.Contains(err.Error(), "is not evaluated by this command") {
				t.Errorf("%s: %v", expression, err)
			}
		case err != nil:
			t.Errorf("%s: %v", expression, err)
		case p.Args[1] != "--hsm-key-label="+want:
			t.Errorf("%s: %s, want %q", expression, p.Args[1], want)
		}
	}
	// a service that is no Fulcio may have them
	parsed(t, "services: {fulcio: {image: fulcio, command: [serve]}, other: {image: 'a:${NONE:?b}', command: '${C:+d}'}}")
}

// Of several objects with the key of a log, it is always the same that counts.
func TestLogKeys(t *testing.T) {
	t.Parallel()
	text := deployment(`{"name": "PASSWORD", "value": "x"}`)
	for _, namespace := range []string{"c", "a", "b"} {
		text += "---\n" + `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ctlog-public-key", "namespace": "` +
			namespace + `"}, "stringData": {"public": "` + namespace + `"}}` + "\n"
	}
	for range 20 {
		if p := parsed(t, text); string(p.LogKey.Data) != "a" {
			t.Fatalf("the key of the namespace %s", p.LogKey.Data)
		}
	}
}

// Each difference names a row of the table in docs/compatibility.md.
func TestRows(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := migrate.Rows()
	if len(rows) < 15 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, row := range rows {
		if !strings.Contains(string(page), "\n| "+row+" | ") {
			t.Errorf("docs/compatibility.md has no row %q", row)
		}
	}
}

func FuzzParse(f *testing.F) {
	dirs, err := filepath.Glob("testdata/*/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range dirs {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := migrate.Parse([]migrate.Input{{Name: "f.yaml", Data: data}}, migrate.Where{Dir: "/none"})
		if err != nil {
			return
		}
		p.Dir = "/none"
		plan, err := migrate.Translate(p, migrate.Options{Dir: "/out"})
		if err == nil && !strings.Contains(files(plan), "-- mayfly.yaml --\n") {
			t.Error("no mayfly.yaml and no error")
		}
	})
}

func FuzzCommandLine(f *testing.F) {
	f.Add("serve\n--ca=ephemeralca\n--port=1", "PORT", "2")
	f.Add("serve\n-c\n/x.yaml\n--ca=$(A)$$", "A", "fileca")
	f.Fuzz(func(t *testing.T, line, name, text string) {
		plan, err := migrate.Translate(&migrate.Process{
			Name: "test", Args: strings.Split(line, "\n"), Container: true,
			Env: map[string]migrate.Variable{name: {Text: text}, "FULCIO_SERVE_" + name: {Text: text}},
		}, migrate.Options{Dir: "/out"})
		if err == nil && len(plan.Report.Settings) == 0 {
			t.Error("no setting and no error: Fulcio needs --ca")
		}
	})
}

// TestFlagsTable compares the table of flags in docs/migrating.md with Flags. "make e2e" compares it with the flags of
// a released Fulcio.
func TestFlagsTable(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	table.WriteString("\n| flag | default | mayfly.yaml | note |\n|---|---|---|---|\n")
	page := regexp.MustCompile(`docs/([a-z-]+\.md)`)
	dash := func(s string) string {
		if s == "" {
			return "–"
		}
		return s
	}
	for _, f := range migrate.Flags() {
		fallback := f.Default
		if fallback != "" {
			fallback = "`" + fallback + "`"
		}
		table.WriteString("| `--" + f.Name + "` | " + dash(fallback) + " | " + dash(f.Setting) + " | " +
			page.ReplaceAllString(f.Note, "[$1]($1)") + " |\n")
	}
	const name, begin, end = "../docs/migrating.md", "<!-- flags: fulcio -->\n", "\n<!-- end of flags -->"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, closed := strings.Cut(rest, strings.TrimPrefix(end, "\n"))
	if !ok || !closed {
		t.Fatalf("%s has no place for the table", name)
	}
	want := before + begin + table.String() + end + after
	if *update {
		if err := os.WriteFile(name, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("go test ./migrate -run TestFlagsTable -update (-want +got):\n%s", diff)
	}
}
