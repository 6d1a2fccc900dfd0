package main

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ceremony"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// docBlock is a block of code in a page of the documentation.
type docBlock struct {
	page     string
	line     int
	language string
	text     string
	needs    []string // programs in a comment "needs: A, B" before the block; make e2e builds them
	notRun   string   // REASON in a comment "not run: REASON" before the block
}

func (b docBlock) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

var (
	fenced     = regexp.MustCompile("(?ms)(?:^ *<!-- (needs|not run): ([^\n]*) -->\n)?^( *)```(\\w+)\n(.*?)^ *```$")
	savedAs    = regexp.MustCompile(`^# ([\w.-]+\.yaml)\n`)
	dashedPath = regexp.MustCompile(`/(etc|var/lib|mnt)/[a-z]+/`)
)

// docBlocks returns the blocks of all pages in order.
func docBlocks(t *testing.T) (out []docBlock) {
	t.Helper()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append([]string{"../../README.md"}, pages...) {
		data, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		for _, m := range fenced.FindAllStringSubmatchIndex(text, -1) {
			part := func(i int) string {
				if m[2*i] < 0 {
					return ""
				}
				return text[m[2*i]:m[2*i+1]]
			}
			b := docBlock{page: filepath.Base(page), line: 1 + strings.Count(text[:m[6]], "\n"), language: part(4)}
			b.text = dedented(part(5))
			switch part(1) {
			case "needs":
				b.needs = strings.Split(part(2), ", ")
			case "not run":
				b.notRun = part(2)
			}
			out = append(out, b)
		}
	}
	return out
}

// dedented returns text without the white space at the beginning that all lines share.
func dedented(text string) string {
	least := len(text)
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) != "" {
			least = min(least, len(line)-len(strings.TrimLeft(line, " ")))
		}
	}
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString(line[min(least, len(line)-1):])
	}
	return out.String()
}

// Each block has a language that a test checks, or a reason why it is not checked.
func TestDocumentedBlocks(t *testing.T) {
	t.Parallel()
	blocks := docBlocks(t)
	if len(blocks) < 30 {
		t.Fatalf("%d blocks", len(blocks))
	}
	for _, b := range blocks {
		switch {
		case b.notRun != "":
			t.Logf("%s is not run: %s", b, b.notRun)
			if len(strings.Fields(b.notRun)) < 3 {
				t.Errorf("%s: %q is no reason", b, b.notRun)
			}
		case !slices.Contains([]string{"yaml", "sh", "json", "text"}, b.language): // text is a diagram or output
			t.Errorf("%s: no test checks %s", b, b.language)
		case b.language == "json" && !json.Valid([]byte(b.text)):
			t.Errorf("%s is not JSON", b)
		}
		if dashes := strings.Contains(b.text, "…"); dashes && b.notRun == "" {
			t.Errorf("%s has an ellipsis, so a reader cannot use it", b)
		}
	}
}

// docKit has the files that the documented configurations name.
type docKit struct{ chain, key, encrypted, jwks, stampChain, stampKey string }

func newDocKit(t *testing.T) docKit {
	t.Helper()
	dir := t.TempDir()
	if out, err := process.Mayfly(dir, "ca", "init", "--dir", ".", "--no-password"); err != nil {
		t.Fatal(err, out)
	}
	if out, err := process.Mayfly(dir, "ca", "init", "--dir", "tsa", "--no-password", "--timestamping"); err != nil {
		t.Fatal(err, out)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	return docKit{
		chain: read("chain.pem"), key: read("ca-key.pem"),
		stampChain: read("tsa/chain.pem"), stampKey: read("tsa/tsa-key.pem"),
		encrypted: openssl(t, read("ca-key.pem"), "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:password"),
		jwks:      `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`,
	}
}

func openssl(t *testing.T, input string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command("openssl", args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %v: %v", args, err)
	}
	return string(out)
}

// write writes a file with content that suits the setting that names it.
func (k docKit) write(t *testing.T, dir, name string) {
	t.Helper()
	var content string
	switch base := filepath.Base(name); {
	case base == "tsa-key.pem":
		content = k.stampKey
	case strings.Contains(name, "tsa") && base == "chain.pem":
		content = k.stampChain
	case base == "key.pem", base == "ca-key.pem", base == "client-key.pem":
		content = k.key
	case strings.Contains(base, "chain"), base == "client.pem", strings.HasSuffix(base, "-ca.pem"):
		content = k.chain
	case strings.HasSuffix(base, ".pem"):
		content = openssl(t, openssl(t, "", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
			"pkey", "-pubout")
	case strings.HasSuffix(base, "jwks.json"):
		content = k.jwks
	case base == "identity.yaml":
		content = "oidc-issuers:\n  https://idp.example.com: {client-id: sigstore, type: email}\n"
	default:
		content = "a secret of the documentation\n"
	}
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, name)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Every YAML block, with the files that it names, is a configuration or an issuer file that "mayfly config check"
// accepts.
func TestDocumentedYAML(t *testing.T) {
	t.Parallel()
	kit := newDocKit(t)
	for _, b := range docBlocks(t) {
		// "ca init" reads a plan
		if b.language != "yaml" || b.notRun != "" || strings.HasPrefix(b.text, "# plan.yaml\n") {
			continue
		}
		t.Run(b.String(), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			main, identity := completed(t, b.text)
			main = dashedPath.ReplaceAllString(strings.ReplaceAll(main, "MAYFLY_CA_PASSWORD", "MAYFLY_DOCS_PASSWORD"),
				dir+"/$1/")
			save := func(name, text string) {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			save("mayfly.yaml", main)
			if identity != "" {
				save("identity.yaml", identity)
			}
			kit := kit
			if strings.Contains(main, "MAYFLY_DOCS_PASSWORD") {
				kit.key = kit.encrypted
			}
			for _, name := range append(config.Named(filepath.Join(dir, "mayfly.yaml")), filesOf(t, identity)...) {
				if !there(filepath.Join(dir, name)) && !there(name) && filepath.Base(name) != "trusted_root.json" &&
					filepath.Base(name) != "chains.json" { // the CA makes it
					kit.write(t, dir, name)
				}
			}
			for _, sub := range []string{"etc", "var/lib", "mnt"} {
				if strings.Contains(main, dir+"/"+sub) {
					if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
						t.Fatal(err)
					}
				}
			}
			if strings.Contains(main, "tls/tls.crt") { // config.Named has only what a reload reads
				certificate, key := tlsPair(t, 1)
				if err := os.MkdirAll(filepath.Join(dir, "tls"), 0o700); err != nil {
					t.Fatal(err)
				}
				save("tls/tls.crt", string(certificate))
				save("tls/tls.key", string(key))
			}
			checkDocumented(t, dir, main)
		})
	}
}

// checkDocumented runs "mayfly config check" in dir. If the configuration names a published trusted root, it is first
// exported from that configuration.
func checkDocumented(t *testing.T, dir, main string) {
	t.Helper()
	mayfly := func(args ...string) ([]byte, error) {
		cmd := exec.Command("mayfly", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "MAYFLY_DOCS_PASSWORD=password")
		return cmd.CombinedOutput()
	}
	if at := regexp.MustCompile(`, trusted_root: (\S+)/trusted_root.json`).FindStringSubmatch(main); at != nil {
		without := filepath.Join(dir, "without.yaml")
		if err := os.WriteFile(without, []byte(strings.Replace(main, at[0], "", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := mayfly("trust", "export", "--config", "without.yaml", "--out", at[1]); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if out, err := mayfly("config", "check", "--config", "mayfly.yaml"); err != nil {
		t.Errorf("%v\n%s\n%s", err, out, main)
	}
}

// completed adds the missing parts to a block: the other settings of a configuration, or the lines around an entry of
// an issuer file. Years are replaced by the current year, so that the validity of logs includes now.
func completed(t *testing.T, text string) (main, identity string) {
	t.Helper()
	year := time.Now().Year()
	text = strings.NewReplacer("2026", strconv.Itoa(year), "2027", strconv.Itoa(year+1)).Replace(text)
	var keys map[string]yaml.Node
	if err := yaml.Unmarshal([]byte(text), &keys); err != nil {
		t.Fatal(err)
	}
	has := func(key string) bool { _, ok := keys[key]; return ok }
	indent := func(n int) string {
		return strings.Repeat(" ", n) + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n",
			"\n"+strings.Repeat(" ", n)) + "\n"
	}
	switch {
	case has("oidc-issuers"), has("meta-issuers"), has("ci-issuer-metadata"):
		identity = text
	case has("policy"), has("custom-extensions"):
		profile, issuer := "github-workflow", "https://token.actions.githubusercontent.com"
		if has("custom-extensions") {
			profile, issuer = "gitlab-pipeline", "https://gitlab.com"
		}
		identity = "oidc-issuers:\n  " + issuer + ":\n    client-id: sigstore\n    profile: " +
			profile + "\n" + indent(4)
	default:
		for key := range keys {
			if strings.HasPrefix(key, "https://") {
				identity = "oidc-issuers:\n" + indent(2)
			}
		}
	}
	if identity == "" {
		main = text
	}
	for key, part := range map[string]string{
		"identity": "identity: {file: identity.yaml}\n", "ca": "ca: {file: {chain: chain.pem, key: key.pem}}\n",
		"ct": "ct: {logs: [{name: documented, url: \"https://ct.example.com\", public_key: documented.pem}]}\n",
	} {
		if identity != "" || !has(key) {
			main += part
		}
	}
	return main, identity
}

// filesOf returns the files that an issuer file names.
func filesOf(t *testing.T, identity string) (out []string) {
	t.Helper()
	var file struct {
		Issuers map[string]struct {
			Outbound struct {
				CABundle    string `yaml:"ca-bundle"`
				BearerToken string `yaml:"bearer-token-file"`
				Client      struct {
					Certificate string `yaml:"certificate"`
					Key         string `yaml:"key"`
				} `yaml:"client-certificate"`
			} `yaml:"outbound"`
			Static struct {
				File string `yaml:"file"`
			} `yaml:"static-keys"`
		} `yaml:"oidc-issuers"`
	}
	if err := yaml.Unmarshal([]byte(identity), &file); err != nil {
		t.Fatal(err)
	}
	for _, i := range file.Issuers {
		out = append(out, i.Outbound.CABundle, i.Outbound.BearerToken, i.Outbound.Client.Certificate,
			i.Outbound.Client.Key, i.Static.File)
	}
	return slices.DeleteFunc(out, func(name string) bool { return name == "" })
}

// The blocks of each page run in one shell, in order. Blocks that need a program of "make e2e" run only there.
func TestDocumentedLines(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"bash", "openssl", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	blocks := docBlocks(t)
	for _, page := range []string{
		"README.md", "getting-started.md", "ceremony.md", "audit.md", "reconcile.md",
		"operations.md", "timestamps.md", "private-sigstore.md", "signature-log.md",
	} {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			ports := docPorts(t)
			script := "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n"
			// these pages start their own
			if !slices.Contains([]string{"getting-started.md", "ceremony.md", "timestamps.md", "signature-log.md"},
				page) {
				p, err := process.Dev(dir)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := p.Stop(); err != nil {
						t.Error(err)
					}
				})
				ports = append(ports, "http://127.0.0.1:5555", p.URL, "http://127.0.0.1:5556", p.Issuer)
				script += prepareDocs(t, dir, page, p)
			}
			ran := 0
			for _, b := range blocks {
				if b.page != page || b.notRun != "" || len(b.needs) > 0 {
					continue
				}
				if name := savedAs.FindStringSubmatch(b.text); name != nil {
					script += "cat > " + name[1] + " <<'END OF FILE'\n" + b.text + "END OF FILE\n"
				} else if b.language == "sh" {
					script += b.text
					ran++
				}
			}
			if ran == 0 {
				t.Fatal("no lines")
			}
			// .mayfly-dev has a repository of this name.
			script = strings.NewReplacer(append(ports, "--dir tuf", "--dir documented-tuf", "bin/mayfly", "mayfly",
				"/etc/mayfly/", "", "tail -f", "tail")...).Replace(script)
			cmd := exec.CommandContext(t.Context(), "bash", "-c", script+"echo all done\n")
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "NO_COLOR=1", "HOME="+dir)
			cmd.WaitDelay = 10 * time.Second
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "all done\n") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// docPorts returns the replacements of the addresses in getting-started.md by free ones.
func docPorts(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, port := range []string{"5555", "5556", "6555", "6112", "6557"} {
		out = append(out, "127.0.0.1:"+port, process.FreeAddress(t))
	}
	dev := func(i int) string { return out[2*i+1] }
	return append(out, "mayfly dev > ", "mayfly dev --http "+dev(0)+" --idp "+dev(1)+" --grpc off --admin off > ")
}

// prepareDocs creates the files that the commands of a page expect, from the directory of a development CA.
func prepareDocs(t *testing.T, dir, page string, p *process.DevProcess) string {
	t.Helper()
	if page == "README.md" || page == "private-sigstore.md" {
		return ""
	}
	return "export PS1=x\nmayfly dev token --email alice@example.com > token\n" +
		"mayfly request --url " + p.URL +
		" --trusted-root .mayfly-dev/trusted_root.json --token-file token --out cert.pem > request.out\n" +
		"SERIAL=$(mayfly audit query .mayfly-dev/journal.jsonl --san alice@example.com --json | sed " +
		"'s/.*\"serial\":\"\\([0-9a-f]*\\)\".*/\\1/')\n" +
		"mkdir trust && cp .mayfly-dev/trusted_root.json .mayfly-dev/signing_config.json trust/\n" +
		"mv trust .mayfly-dev/ && cd .mayfly-dev\n"
}

// docs/ceremony.md lists the requirements of a chain as they are checked, and every key of a plan.
func TestCeremonyPage(t *testing.T) {
	t.Parallel()
	const name, begin, end = "../../docs/ceremony.md", "<!-- requirements -->\n", "<!-- end of requirements -->"
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	rows := "\n| requirement | level |\n|---|---|\n"
	for _, r := range ca.Examine(nil, time.Now(), x509.ExtKeyUsageCodeSigning) {
		rows += fmt.Sprintf("| %s | %s |\n", r.Name, r.Level)
	}
	head, rest, ok := strings.Cut(string(data), begin)
	_, tail, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no place for the requirements", name)
	}
	if want := head + begin + rows + "\n" + end + tail; want != string(data) {
		if !*update {
			t.Errorf("%s does not list the requirements; run: go test ./cmd/mayfly -run TestCeremonyPage -update", name)
		} else if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, part := range []reflect.Type{
		reflect.TypeFor[ceremony.Plan](), reflect.TypeFor[ceremony.Part](),
		reflect.TypeFor[ceremony.Subject](),
	} {
		for i := range part.NumField() {
			if key := part.Field(i).Tag.Get("yaml"); !strings.Contains(string(data), "`"+key+"`") {
				t.Errorf("%s does not explain the key %s of a plan", name, key)
			}
		}
	}
}
