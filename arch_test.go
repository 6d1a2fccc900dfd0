// Package mayfly_test has the architecture as data: which package may import which, which package owns each heavy
// dependency, and the house rules that a test can check. To change the architecture, change a table here in the same
// commit and say why.
package mayfly_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/mayfly-ca/mayfly"

// layers says which packages of this module each package may import in production code. Every package may import
// internal. "*" means all packages except testkit. A package without a row has the row of the nearest folder above it.
var layers = map[string][]string{
	"fault":    {},
	"identity": {},
	"loglist":  {}, // the one description of a CT log
	"tbs":      {},

	"internal": {"fault"}, // the ground floor: one rule for each thing that several packages do

	"pop":  {"fault"},
	"oidc": {"oidc/issuer", "oidc/provider", "oidc/claims", "oidc/policy", "oidc/token", "fault", "identity"},
	"oidc/issuer": {
		"oidc/provider", "oidc/claims", "oidc/policy", "oidc/pattern", "oidc/token",
		"fault", "identity",
	},
	"oidc/provider":      {"oidc/token", "fault"},
	"oidc/claims":        {"oidc/pattern", "oidc/token", "fault", "identity"},
	"oidc/policy":        {"oidc/token", "fault", "identity"},
	"oidc/pattern":       {},
	"oidc/token":         {"fault"},
	"ca":                 {"ca/signer/remote", "fault", "identity", "tbs"},
	"ca/signer/remote":   {"fault"},                           // the guard around a key outside this process
	"ca/signer":          {"ca", "ca/signer/remote", "fault"}, // and each backend below it
	"ca/signer/backends": {"ca/signer", "fault"},              // the table of them
	// keys in a PKCS #11 token; needs cgo
	"ca/signer/pkcs11/token": {"ca/signer/remote", "ca/signer", "fault"},
	// makes certificates of CAs with the keys of any backend
	"ceremony":       {"ca", "ca/signer", "ca/signer/backends", "fault", "tbs", "tsa"},
	"tsa":            {"ca/signer/remote", "fault"}, // the timestamp authority; a call of a remote key has a context
	"ctlog":          {"fault", "loglist", "tbs"},
	"ctlog/embedded": {"monitor", "tbs", "tlog"},                      // the CT log in this process
	"tlog":           {"monitor", "fault", "loglist"},                 // the parser of checkpoints
	"ctlog/remote":   {"ctlog", "monitor", "fault", "loglist", "tbs"}, // a tree head proves a log's key
	// reads and checks logs, as an auditor does
	"monitor":     {"fault", "loglist", "tbs"},
	"find":        {"fault", "identity", "monitor", "rekor/entry", "tbs"}, // an index of the logs
	"rekor/entry": {},                                                     // reads entries of a log of signatures
	// a Rekor v2 log over a log of bytes; identity: the journal has the identity of a certificate
	"rekor":        {"fault", "identity", "journal", "rekor/entry"},
	"trial":        {"client", "trust"}, // one signature with every service, as clients make it
	"tracing":      {"fault"},           // exports spans
	"journal":      {"fault", "journal/ship"},
	"journal/ship": {"fault"},

	"reconcile":         {"journal", "monitor", "rekor/entry", "tbs", "fault"}, // compares journals with logs
	"reconcile/webhook": {},                                                    // delivers findings

	// examines a configuration: it composes the checks of the other packages
	"doctor": {
		"ca", "ca/signer", "canary", "config", "fault", "identity", "node", "oidc", "server/servertls", "server/shared",
		"server/uses", "status", "trial", "trust", "tsa",
	},
	"status": {"canary", "fault", "server"}, // asks a running CA; the pages are values of these packages
	// the path of a request up to the SCTs, at intervals
	"canary": {"ca", "fault", "journal", "oidc", "pop", "tbs"},

	"proto": {},
	// the states of chains; how long a certificate is valid
	"rotation": {"ca", "fault"},
	"config": {
		"oidc", "pop", "ca", "ca/signer", "ca/signer/backends", "rotation", "ctlog", "ctlog/embedded",
		"ctlog/remote", "journal", "canary", "find",
		"reconcile", "server/servertls", "server/shared", "tlog", "tracing", "tsa", "fault",
		"loglist", // the window of a log of another server
	},
	// tbs: the SCTs that a certificate has, for the journal
	"server": {
		"fault", "identity", "tbs", "pop", "oidc", "ca", "journal", "proto", "server/admission",
		"server/servertls", "server/uses", "tracing",
	},
	// which requests are served, wait or are refused
	"server/admission": {"fault"},
	// how often tokens were used
	"server/uses": {"fault"},
	// the same, and rates, for several servers
	"server/shared": {"server/uses", "fault"},
	// the certificates of listeners
	"server/servertls": {"fault"},
	// tbs: it verifies SCTs over the precertificate that it rebuilds
	"client": {"fault", "identity", "loglist", "tbs", "proto"},
	// client: its rules decide which certificates and SCTs a trusted root accepts
	"trust":   {"fault", "client", "loglist"},
	"inspect": {"identity", "monitor", "tbs", "trust"}, // trust names the logs of SCTs
	"dev/idp": {},

	"node": {
		"oidc", "pop", "ca", "ca/signer", "ctlog", "ctlog/embedded", "ctlog/remote", "find", "monitor", "journal",
		"reconcile", "reconcile/webhook", "ceremony", "config", "rotation", "server", "server/admission",
		"server/servertls", "server/shared", "server/uses", "tracing", "trust", "loglist", "tbs", "tlog", "tsa",
		"fault",
		"canary", "rekor",
		// a rotation asks the running CA for its trust bundle; its certificates may be logged by package rekor
		"client",
	},
	"dev": {"node", "ca", "config", "server", "trial", "trust", "tsa", "dev/idp", "fault"},

	// writes the files of a new instance; config: what is written is what config accepts
	"setup": {
		"ca/signer", "ca/signer/backends", "ceremony", "config", "fault", "node", "oidc", "trust",
	},

	// translates the configuration of a Fulcio; config: what is written is what config accepts
	"migrate": {"config"},
	// oidc: the keys of the issuer file, which values contain
	"migrate/chart": {"oidc"},
	// stands in front of a running CA; proto: it reads requests and answers, identity: the extensions by name
	"shadow": {"fault", "identity", "proto"},

	// copies an instance, and restores it
	"backup": {"config", "fault", "journal", "reconcile", "tlog"},

	"cmd/internal/cli":    {"fault"},
	"cmd/internal/manual": {}, // the manual pages of a program
	// the commands of those who sign and verify
	"cmd/internal/clients": {"cmd/internal/cli", "ca/signer", "client", "inspect", "trust", "fault"},
	"cmd/mayfly-client":    {"cmd/internal/cli", "cmd/internal/clients"}, // no others: it builds for Windows
	"cmd/mayfly": {
		"migrate/chart",
		"cmd/internal/cli", "cmd/internal/manual", "node", "dev", "dev/idp", "config", "oidc", "ca", "ca/signer",
		"rotation", "ctlog",
		"monitor", "tlog", "rekor", "rekor/entry",
		"journal", "reconcile", "client", "trust", "inspect", "identity", "loglist", "tbs", "fault", "server",
		"ceremony", "ca/signer/backends", "status", "doctor", "tsa", "setup", "backup", "find", "migrate",
		"shadow",
		"cmd/internal/clients", "server/uses", // the version of the file, for "mayfly version"
	},
	// the one program with cgo
	"cmd/mayfly-hsm":   {"cmd/internal/cli", "ca/signer/pkcs11/token", "ca/signer", "fault"},
	"cmd/mayfly-bench": {"cmd/internal/cli", "dev", "dev/idp", "node", "client", "ca", "tbs", "fault"},

	"testkit": {"*", "testkit"}, // and only tests import it
}

// owners says which packages may import a heavy dependency, by the beginning of its import path.
var owners = map[string][]string{
	"github.com/coreos/go-oidc":                     {"oidc"},
	"cel.dev/cel-go":                                {"oidc/policy"},
	"github.com/go-jose/go-jose":                    {"oidc/provider", "dev/idp"},
	"github.com/google/certificate-transparency-go": {"ctlog/remote"},
	"github.com/transparency-dev":                   {"ctlog/embedded", "monitor", "rekor", "tlog"},
	"go.yaml.in/yaml":                               {"config", "migrate", "migrate/chart"},
	"gopkg.in/yaml":                                 {},
	"github.com/fsnotify/fsnotify":                  {"config"},
	"google.golang.org/grpc":                        {"server", "client", "proto", "ca/signer", "rekor", "shadow"},
	"github.com/grpc-ecosystem":                     {"server", "proto"},
	"google.golang.org/genproto":                    {"server", "client", "proto", "ca/signer", "shadow"},
	"go.opentelemetry.io":                           {"journal/ship", "tracing", "internal"},
	"google.golang.org/protobuf": {
		"server", "client", "proto", "trust",
		"journal/ship", "ca/signer", "rekor", "rekor/entry", "shadow", "trial",
	},
	"github.com/aws":                       {"ca/signer"},
	"github.com/Azure":                     {"ca/signer"},
	"cloud.google.com":                     {"ca/signer"},
	"google.golang.org/api":                {"ca/signer"},
	"github.com/openbao":                   {"ca/signer"},
	"github.com/tink-crypto":               {"ca/signer"},
	"github.com/rs/cors":                   {"server"},
	"github.com/pires/go-proxyproto":       {"server"},
	"github.com/valkey-io":                 {"server/shared"},
	"github.com/alicebob/miniredis":        {}, // the store in tests
	"github.com/coreos/go-systemd":         {"internal"},
	"golang.org/x/crypto/acme":             {"server/servertls"},
	"github.com/sigstore/protobuf-specs":   {"trust", "rekor", "rekor/entry", "trial"},
	"github.com/sigstore/rekor-tiles":      {"monitor", "rekor", "rekor/entry", "tlog", "trial"},
	"github.com/sigstore/rekor/":           {"rekor"},
	"github.com/secure-systems-lab":        {"rekor", "trial"},
	"go.etcd.io/bbolt":                     {"find"},
	"github.com/digitorus":                 {"tsa"},
	"github.com/beevik/ntp":                {"tsa"},
	"github.com/sigstore/sigstore-go":      {"trust"},
	"github.com/theupdateframework/go-tuf": {"trust"},
	"github.com/sigstore/sigstore/":        {"cmd/internal/clients", "ca/signer", "monitor", "node", "trust", "rekor"},
	"software.sslmate.com/src/go-pkcs12":   {"ca/signer"},
	"filippo.io/age":                       {"ca/signer"},
	"github.com/spf13": {
		"cmd/mayfly", "cmd/mayfly-bench", "cmd/mayfly-hsm", "cmd/mayfly-client",
		"cmd/internal/cli", "cmd/internal/clients", "cmd/internal/manual",
		"migrate", // the command line of Fulcio is parsed as Fulcio parses it
	},
	"github.com/miekg/pkcs11":         {"cmd/mayfly-hsm", "ca/signer/pkcs11/token"}, // needs cgo
	"github.com/zmap":                 {},
	"github.com/cloudflare/circl":     {}, // the second implementation in tests
	"github.com/google/go-cmp":        {},
	"github.com/rogpeppe/go-internal": {},
	"go.uber.org/goleak":              {},
}

// goFile is one parsed file of the product's module.
type goFile struct {
	path    string // slash-separated, from the repository's root
	pkg     string // its folder
	tree    *ast.File
	files   *token.FileSet
	imports []string
}

func (f goFile) test() bool      { return strings.HasSuffix(f.path, "_test.go") }
func (f goFile) testkit() bool   { return f.pkg == "testkit" || strings.HasPrefix(f.pkg, "testkit/") }
func (f goFile) generated() bool { return ast.IsGenerated(f.tree) }

func (f goFile) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.path, f.files.Position(n.Pos()).Line)
}

// skipped reports whether a folder has no source of the product: other modules, caches, build results.
func skipped(dir string) bool {
	base := path.Base(dir)
	if dir == "." {
		return false
	}
	if strings.HasPrefix(base, ".") && base != ".ci" || base == "testdata" || dir == "bin" {
		return true
	}
	_, err := os.Stat(filepath.Join(filepath.FromSlash(dir), "go.mod"))
	return err == nil
}

func walk(t *testing.T, skip func(string) bool, visit func(name string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if d.IsDir() {
			if skip(name) {
				return filepath.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() {
			visit(name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// parsed has the files of the module after the first parseAll. The tests only read it.
var parsed struct {
	sync.Mutex
	files []goFile
}

func parseAll(t *testing.T) []goFile {
	t.Helper()
	parsed.Lock()
	defer parsed.Unlock()
	if parsed.files != nil {
		return parsed.files
	}
	var out []goFile
	walk(t, skipped, func(name string) {
		if !strings.HasSuffix(name, ".go") {
			return
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, filepath.FromSlash(name), nil, parser.ParseComments)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		f := goFile{path: name, pkg: path.Dir(name), tree: tree, files: set}
		for _, s := range tree.Imports {
			p, err := strconv.Unquote(s.Path.Value)
			if err != nil {
				t.Errorf("%s: import %s: %v", name, s.Path.Value, err)
			}
			f.imports = append(f.imports, p)
		}
		out = append(out, f)
	})
	if len(out) < 10 {
		t.Fatalf("found %d Go files; the test must run in the root of the repository", len(out))
	}
	parsed.files = out
	return out
}

// layerOf returns the name of the row that applies to pkg.
func layerOf(pkg string) (string, bool) {
	for p := pkg; p != "." && p != "/"; p = path.Dir(p) {
		if _, ok := layers[p]; ok {
			return p, true
		}
	}
	return "", false
}

func TestLayers(t *testing.T) {
	t.Parallel()
	for _, f := range parseAll(t) {
		if f.pkg == "." {
			continue
		}
		layer, known := layerOf(f.pkg)
		if !known {
			if !f.test() {
				t.Errorf("%s: package %s stands in no row of the layer table in arch_test.go", f.path, f.pkg)
			}
			continue
		}
		for _, p := range f.imports {
			ours, ok := strings.CutPrefix(p, module+"/")
			if !ok || f.test() {
				continue // a test may import what it needs
			}
			target, known := layerOf(ours)
			if !known {
				t.Errorf("%s imports %s, which stands in no row of the layer table", f.path, ours)
				continue
			}
			allowed := layers[layer]
			if target == layer || target == "internal" || slices.Contains(allowed, target) ||
				slices.Contains(allowed, "*") && target != "testkit" {
				continue
			}
			t.Errorf("%s: %s may not import %s (it may import %v)", f.path, layer, ours, allowed)
		}
	}
}

func TestOwners(t *testing.T) {
	t.Parallel()
	for _, f := range parseAll(t) {
		if f.test() || f.testkit() {
			continue
		}
		for _, p := range f.imports {
			for prefix, who := range owners {
				if !strings.HasPrefix(p, prefix) {
					continue
				}
				if layer, _ := layerOf(f.pkg); !slices.Contains(who, layer) {
					t.Errorf("%s imports %s, which belongs to %v", f.path, p, who)
				}
			}
		}
	}
}

func TestDomainPackagesSeeNoFlags(t *testing.T) {
	t.Parallel()
	for _, f := range parseAll(t) {
		if f.test() || f.testkit() || f.pkg == "cmd/mayfly" {
			continue
		}
		if slices.Contains(f.imports, "flag") {
			t.Errorf("%s imports flag; only cmd/mayfly and the tools of testkit read flags", f.path)
		}
	}
}

func TestForbiddenFunctions(t *testing.T) {
	t.Parallel()
	for _, f := range parseAll(t) {
		if f.generated() {
			continue
		}
		for _, d := range f.tree.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			switch {
			case fn.Name.Name == "init" && fn.Recv == nil:
				t.Errorf("%s: an init function; build values in a constructor", f.at(fn))
			case fn.Name.Name == "GRPCStatus" && fn.Recv != nil:
				t.Errorf("%s: a GRPCStatus method; grpc-go sends what it returns to the client, private cause included",
					f.at(fn))
			case !f.test() && positional(fn) > 3:
				t.Errorf("%s: %s takes %d positional parameters; at most three and a context, else a struct", f.at(fn),
					fn.Name.Name, positional(fn))
			}
		}
	}
}

// positional counts the parameters of fn, without a leading context or testing.TB.
func positional(fn *ast.FuncDecl) int {
	n := fn.Type.Params.NumFields()
	for _, p := range fn.Type.Params.List {
		if s, ok := p.Type.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && (x.Name == "context" || x.Name == "testing") {
				n -= max(1, len(p.Names))
			}
		}
	}
	return n
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	for _, f := range parseAll(t) {
		if f.test() || f.generated() {
			continue
		}
		documented[f.pkg] = documented[f.pkg] || f.tree.Doc != nil
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment", pkg)
		}
	}
}

func TestNoJunkDrawers(t *testing.T) {
	t.Parallel()
	for _, f := range parseAll(t) {
		for _, part := range strings.Split(f.pkg, "/") {
			switch part {
			case "pkg", "util", "utils", "common", "helpers", "misc":
				t.Errorf("%s: a folder named %q; name it after what it does", f.path, part)
			}
		}
	}
}

// strange are strings that must not occur in the repository: paths outside of it, and hosts of package registries,
// because each user may have another one. They are concatenated so that this file passes its own test.
var strange = []string{
	"../" + "shared", "/work/" + "shared", "/work/" + "main",
	"proxy." + "golang.org", "sum." + "golang.org", "goproxy" + ".", "registry.npmjs" + ".org", "pypi" + ".org",
	"pythonhosted" + ".org",
	"crates" + ".io", "docker" + ".io", "ghcr" + ".io", "gcr" + ".io", "quay" + ".io", "maven" + ".org",
	"rubygems" + ".org",
}

// maxFile is the size of the largest file, in bytes.
const maxFile = 1 << 20

func TestNoStrangeWords(t *testing.T) {
	t.Parallel()
	sums := regexp.MustCompile(`(^|/)go\.(mod|sum)$`)
	skip := func(dir string) bool {
		return dir != "." && dir != ".ci" && (strings.HasPrefix(path.Base(dir), ".") || dir == "bin" ||
			dir == "proto/third_party")
	}
	walk(t, skip, func(name string) {
		if name == ".git" { // a file in a second work tree, which contains the path of the first
			return
		}
		data, err := os.ReadFile(filepath.FromSlash(name))
		if err != nil {
			t.Error(err)
			return
		}
		if len(data) > maxFile && name != "mayfly" { // the output of "go build", which git ignores
			t.Errorf("%s has %d bytes; the repository holds sources, not what is made from them", name, len(data))
		}
		if sums.MatchString(name) || bytes.IndexByte(data[:min(len(data), 8000)], 0) >= 0 {
			return // module lists contain host names; binaries are not text
		}
		for _, w := range strange {
			if i := bytes.Index(data, []byte(w)); i >= 0 {
				t.Errorf("%s:%d mentions %q", name, 1+bytes.Count(data[:i], []byte("\n")), w)
			}
		}
	})
}
