package setup_test

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ceremony"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/setup"
	"github.com/mayfly-ca/mayfly/testkit/ondisk"
	"github.com/mayfly-ca/mayfly/trust"
)

// plan returns a plan that is right, in a directory of its own.
func plan(t *testing.T, change ...func(*setup.Plan)) *setup.Plan {
	t.Helper()
	p := &setup.Plan{
		Dir: filepath.Join(t.TempDir(), "instance"), URL: "https://ca.example.com", Organization: "Example Inc.",
		TLS: setup.TLS{Certificate: "/etc/tls.pem", Key: "/etc/tls-key.pem"}, Password: &secret.Source{Env: "PASSWORD"},
		Issuers: []setup.Issuer{{URL: "https://accounts.example.com", Owner: "example.com"}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

// Each plan becomes a configuration that is accepted without a warning, and whose text has what the plan says.
func TestPlans(t *testing.T) {
	t.Parallel()
	issuers := func(all ...setup.Issuer) func(*setup.Plan) {
		return func(p *setup.Plan) { p.Issuers = all }
	}
	for name, row := range map[string]struct {
		change func(*setup.Plan)
		want   []string
	}{
		"files": {func(*setup.Plan) {}, []string{
			`http: "0.0.0.0:443"`, `grpc: "0.0.0.0:443"`, `certificate: "/etc/tls.pem"`, "env: PASSWORD",
			`origin: "ca.example.com/ct"`, `allow: "claims.email.endsWith(\"@example.com\")"`, "type: email",
		}},
		"a port in the URL": {func(p *setup.Plan) { p.URL = "https://ca.example.com:8443" }, []string{
			`http: "0.0.0.0:8443"`, `url: "https://ca.example.com:8443"`, `origin: "ca.example.com/ct"`,
		}},
		"ACME": {func(p *setup.Plan) {
			p.TLS = setup.TLS{
				ACME: true, Email: "ops@example.com",
				Directory: "https://acme.example.com/d", CABundle: "/ca",
			}
		}, []string{
			`domains: ["ca.example.com"]`, `email: "ops@example.com"`, "https://acme.example.com/d", `ca_bundle: "/ca"`,
		}},
		"a proxy": {func(p *setup.Plan) { p.TLS = setup.TLS{Proxy: true} }, []string{
			`http: "127.0.0.1:5555"`, `grpc: "127.0.0.1:5554"`, "trusted_proxies:",
		}},
		"loopback": {func(p *setup.Plan) { p.URL, p.TLS = "http://127.0.0.1:7555", setup.TLS{} }, []string{
			`http: "127.0.0.1:7555"`,
		}},
		"listeners": {func(p *setup.Plan) { p.Listen, p.Admin = "10.0.0.1:443", "127.0.0.1:9" }, []string{
			`http: "10.0.0.1:443"`, `admin: "127.0.0.1:9"`,
		}},
		"a socket of systemd": {func(p *setup.Plan) { p.Listen = "systemd:api" }, []string{
			`http: "systemd:api"`, `grpc: "systemd:api"`,
		}},
		"a key in a KMS": {func(p *setup.Plan) { p.CAKey, p.Password = "awskms:///alias/ca", nil }, []string{
			"kms:", "key: awskms:///alias/ca", "chain: ca/chain.pem",
		}},
		"a plain key": {func(p *setup.Plan) { p.Password = nil }, []string{"key: ca/ca-key.pem"}},
		"GitHub": {issuers(setup.Issuer{Profile: setup.GitHub, Owner: "example"}), []string{
			`"https://token.actions.githubusercontent.com":`, `profile: "github-workflow"`,
			`allow: "claims.repository_owner == \"example\""`,
		}},
		"GitLab": {issuers(setup.Issuer{Profile: setup.GitLab, URL: "https://git.example.com", Owner: "a/b"}), []string{
			`parameters: {url: "https://git.example.com"}`, `claims.namespace_path.startsWith(\"a/b/\")`,
		}},
		"GitHub Enterprise": {issuers(setup.Issuer{
			Profile: setup.GitHub, URL: "https://ghe.example.com/_services/token", Web: "https://ghe.example.com/",
		}), []string{`parameters: {url: "https://ghe.example.com"}`}},
		"two": {issuers(setup.Issuer{URL: "https://a.example.com", Owner: "a.example.com"}, setup.Issuer{
			URL: "https://b.example.com", ClientID: "other", Owner: "b.example.com",
		}), []string{`"https://a.example.com":`, `"https://b.example.com":`, `client-id: "other"`}},
		"text of all kinds": {func(p *setup.Plan) { p.Organization = `A: "B" # {C} <D> – é` }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := plan(t, row.change)
			w, err := p.Write(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, one := range w.Warnings {
				t.Error(one)
			}
			var text []byte
			for _, file := range []string{w.Config, filepath.Join(p.Dir, setup.IssuersFile)} {
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				text = append(text, data...)
				for line := range strings.Lines(string(data)) {
					if len([]rune(line)) > 121 || strings.TrimRight(line, " ") != line {
						t.Errorf("%s: %q", file, line)
					}
				}
			}
			for _, want := range row.want {
				if !bytes.Contains(text, []byte(want)) {
					t.Errorf("no %q in\n%s", want, text)
				}
			}
		})
	}
}

// What the server writes is in the directory for it, and nothing but the configuration and the keys in the other one.
func TestState(t *testing.T) {
	t.Parallel()
	for _, private := range []bool{false, true} {
		p := plan(t, func(p *setup.Plan) {
			p.State = filepath.Join(t.TempDir(), "a \"state\"")
			p.TLS = setup.TLS{ACME: true}
			if private {
				p.Password = nil
				p.Private = &setup.Private{Iterations: 1000, Tool: "test"}
			}
		})
		w, err := p.Write(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		names := func(dir string) (out []string) {
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				out = append(out, e.Name())
			}
			return out
		}
		wantDir, wantState := []string{"ca", "identity.yaml", "mayfly.yaml"}, []string{"journal", "state"}
		paths := []string{"ct", "journal/journal.jsonl", "state", "tls"}
		if private {
			wantDir = []string{"ca", "identity.yaml", "mayfly.yaml", "offline", "trust", "tsa"}
			wantState = []string{"ct", "journal", "rekor", "state", "tuf"}
			paths = append(paths, "rekor", "tuf", "index")
		}
		if got := names(p.Dir); !slices.Equal(got, wantDir) {
			t.Errorf("%t: the directory has %q, want %q", private, got, wantDir)
		}
		if got := names(p.State); !slices.Equal(got, wantState) {
			t.Errorf("%t: the state has %q, want %q", private, got, wantState)
		}
		text, err := os.ReadFile(w.Config)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if quoted := strconv.Quote(filepath.Join(p.State, path)); !bytes.Contains(text, []byte(": "+quoted+"\n")) {
				t.Errorf("%t: no %s in\n%s", private, quoted, text)
			}
		}
		again := plan(t, func(again *setup.Plan) { again.State = p.State })
		_, err = again.Write(t.Context())
		if s, ok := errors.AsType[*fault.Setting](err); !ok || s.Path[0] != "state" || len(names(again.Dir)) > 0 {
			t.Errorf("%t: a directory that is not empty: %v", private, err)
		}
	}
}

// Each shipped profile with a public provider becomes an issuer file that is accepted.
func TestProfiles(t *testing.T) {
	t.Parallel()
	tried := 0
	for _, info := range oidc.Profiles() {
		p := plan(t, func(p *setup.Plan) { p.Issuers = []setup.Issuer{{Profile: info.Name}} })
		missing := false
		for _, value := range info.Parameters {
			missing = missing || value == ""
		}
		err := p.Check()
		if len(info.Issuers) == 0 || strings.Contains(info.Issuers[0], "*") {
			if s, ok := errors.AsType[*fault.Setting](err); !ok || s.Path[0] != "issuer" {
				t.Errorf("%s: %v", info.Name, err)
			}
			continue
		}
		if _, err := p.Write(t.Context()); err != nil && !missing {
			t.Errorf("%s: %v", info.Name, err)
		}
		tried++
	}
	if tried < 5 {
		t.Errorf("%d profiles", tried)
	}
}

// A wrong plan is refused with the name of the flag, and leaves nothing behind.
func TestRefused(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*setup.Plan){
		"dir: is missing":                             func(p *setup.Plan) { p.Dir = "" },
		"organization: is missing":                    func(p *setup.Plan) { p.Organization = "" },
		"organization: is missing, longer":            func(p *setup.Plan) { p.Organization = "a\nproduction: false" },
		"url: is missing":                             func(p *setup.Plan) { p.URL = "" },
		"is not the URL of a server":                  func(p *setup.Plan) { p.URL = "https://ca.example.com/path" },
		"over a network without encryption":           func(p *setup.Plan) { p.URL, p.TLS = "http://ca.example.com", setup.TLS{} },
		"url: the port is missing":                    func(p *setup.Plan) { p.URL, p.TLS = "http://localhost", setup.TLS{} },
		"tls: the source of the server":               func(p *setup.Plan) { p.TLS = setup.TLS{} },
		"more than one source":                        func(p *setup.Plan) { p.TLS.Proxy = true },
		"tls: one of the TLS certificate and its key": func(p *setup.Plan) { p.TLS.Key = "" },
		"tls: settings of ACME are set":               func(p *setup.Plan) { p.TLS.Email = "a@example.com" },
		"tls: a URL with http has no certificate":     func(p *setup.Plan) { p.URL = "http://localhost:80" },
		"listen: \"x\" is not HOST:PORT":              func(p *setup.Plan) { p.Listen = "x" },
		"ca-key: \"x\" is not the URI":                func(p *setup.Plan) { p.CAKey = "x" },
		"issuer: is missing":                          func(p *setup.Plan) { p.Issuers = nil },
		"issuer: https://accounts.example.com is":     func(p *setup.Plan) { p.Issuers = append(p.Issuers, p.Issuers[0]) },
		"issuer: \"x\" is not the URL":                func(p *setup.Plan) { p.Issuers[0].URL = "x" },
		"issuer: the keys of http://a.example.com would be fetched": func(p *setup.Plan) {
			p.Issuers[0].URL = "http://a.example.com"
		},
		"profile: the profile \"x\" is unknown": func(p *setup.Plan) { p.Issuers[0].Profile = "x" },
		"owner: \"x\\\"\" is not the name":      func(p *setup.Plan) { p.Issuers[0].Owner = `x"` },
		"owner: the profile buildkite-job has":  func(p *setup.Plan) { p.Issuers[0].Profile = "buildkite-job" },
		"password: exactly one of env and file": func(p *setup.Plan) { p.Password = &secret.Source{} },
	} {
		p := plan(t, change)
		_, err := p.Write(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		if _, err := os.Stat(p.Dir); p.Dir != "" && !os.IsNotExist(err) {
			t.Errorf("%s: the directory was made", want)
		}
	}
}

// A directory with a file is refused and not changed; an empty one is used.
func TestDirectory(t *testing.T) {
	t.Parallel()
	p := plan(t)
	if err := os.Mkdir(p.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(p.Dir, setup.ConfigFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write(t.Context()); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(p.Dir, setup.IssuersFile)); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{setup.CADir, setup.JournalDir, setup.StateDir} {
		if st, err := os.Stat(filepath.Join(p.Dir, dir)); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, st, err)
		}
	}
}

// A private Sigstore has all keys: those of the roots, and of the TUF roles root and targets, are offline and nowhere
// else. The configuration loads without a warning, and the TUF repository has what the files for clients have.
func TestPrivate(t *testing.T) {
	t.Parallel()
	passwords := t.TempDir()
	for _, name := range []string{"server", "roots"} {
		if err := os.WriteFile(filepath.Join(passwords, name), []byte("the password of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	offline := filepath.Join(t.TempDir(), "stick")
	p := plan(t, func(p *setup.Plan) {
		p.Password = &secret.Source{File: filepath.Join(passwords, "server")}
		p.TLS = setup.TLS{Proxy: true}
		p.Private = &setup.Private{
			Offline: offline, RootPassword: &secret.Source{File: filepath.Join(passwords, "roots")}, Iterations: 1000,
		}
	})
	w, err := p.Write(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for path, content := range ondisk.Contents(t, p.Dir) {
		if strings.Contains(content, "PRIVATE KEY") {
			rel, err := filepath.Rel(p.Dir, path)
			if err != nil {
				t.Fatal(err)
			}
			keys[rel] = true
			// the logs make their own keys
			if !strings.Contains(content, "ENCRYPTED") && !strings.HasSuffix(rel, "/log.key.pem") {
				t.Errorf("%s is not encrypted", rel)
			}
		}
	}
	want := map[string]bool{
		"ca/ca-key.pem": true, "tsa/tsa-key.pem": true, "ct/log.key.pem": true, "rekor/log.key.pem": true,
		"tuf/keys/snapshot.pem": true, "tuf/keys/timestamp.pem": true,
	}
	if !maps.Equal(keys, want) {
		t.Errorf("keys of the server: %v", keys)
	}
	away := []string{}
	for path, content := range ondisk.Contents(t, offline) {
		rel, err := filepath.Rel(offline, path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(rel, ".pem") {
			continue // what the signer of TUF metadata compares with
		}
		away = append(away, rel)
		password := &secret.Source{File: filepath.Join(passwords, "roots")}
		key, err := ceremony.OpenKey(t.Context(), ceremony.FileKey(path, "", password), ceremony.Options{})
		if err != nil || !strings.Contains(content, "ENCRYPTED") {
			t.Errorf("%s: %v", rel, err)
		}
		if err := key.Close(); err != nil {
			t.Error(err)
		}
	}
	slices.Sort(away)
	if !slices.Equal(away, []string{
		"ca-root-key.pem", "tsa-root-key.pem", "tuf/keys/root.pem",
		"tuf/keys/targets.pem",
	}) ||
		w.Offline != offline {
		t.Errorf("offline: %v", away)
	}
	report, err := node.Check(t.Context(), w.Config, false)
	// No time server is named.
	if err != nil || len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0], "tsa.clock.servers") {
		t.Errorf("%v, %v", report.Warnings, err)
	}
	r, err := trust.InspectTUF(trust.TUFOptions{Dir: filepath.Join(p.Dir, setup.TUFDir)})
	if err != nil {
		t.Fatal(err)
	}
	root, ok := r.Target(trust.TrustedRootTarget)
	file, err := os.ReadFile(filepath.Join(p.Dir, setup.TrustDir, trust.RootName))
	if err != nil || !ok || !bytes.Equal(root, file) {
		t.Errorf("the TUF repository has another trusted root: %v", err)
	}
	material, err := trust.ParseTrustedRoot(root)
	if err != nil || len(material.Authorities) != 1 || len(material.Timestamps) != 1 || len(material.Logs) != 1 ||
		len(material.Rekor) != 1 {
		t.Errorf("%+v, %v", material, err)
	}
}

// After an error nothing is left, and no error has a password.
func TestPrivateRefused(t *testing.T) {
	t.Parallel()
	occupied := t.TempDir()
	if err := os.WriteFile(filepath.Join(occupied, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, private := range map[string]*setup.Private{
		"tsa-key: \"x\" is not the URI":          {TSAKey: "x"},
		"rekor-key: \"x\" is not the URI":        {RekorKey: "x"},
		"root-password: exactly one of env":      {RootPassword: &secret.Source{}},
		"root-password.file: ":                   {RootPassword: &secret.Source{File: "/no/such/file"}},
		"offline: " + occupied + " is not empty": {Offline: occupied},
		"the chain in tsa: ":                     {TSAKey: "hashivault://no-such-key"},
	} {
		p := plan(t, func(p *setup.Plan) { p.Password, p.TLS, p.Private = nil, setup.TLS{Proxy: true}, private })
		private.Iterations = 1000
		if _, err := p.Write(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		if entries, err := os.ReadDir(p.Dir); err == nil && len(entries) > 0 {
			t.Errorf("%s: left %v", want, entries)
		}
	}
}
