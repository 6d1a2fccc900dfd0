package mayfly_test

import (
	"go/ast"
	"go/constant"
	"go/token"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// documentedNumbers are figures of the documentation that come from constants of the code. Each text occurs in its
// page, with the figures in braces. Each figure is the value of its constant, in order.
var documentedNumbers = []struct {
	page, text string
	constants  string // as DIRECTORY.NAME, separated by spaces; the directory may be one above
}{
	{"README.md", "The certificate is valid for {ten minutes}", "ca.Validity"},

	{"docs/operations.md", "`{127.0.0.1:5555}` | `listen.http`", "config.DefaultHTTP"},
	{"docs/operations.md", "`{127.0.0.1:5554}` | `listen.grpc`", "config.DefaultGRPC"},
	{"docs/operations.md", "`{127.0.0.1:2112}` | `listen.admin`", "config.DefaultAdmin"},
	{"docs/operations.md", "A check without a result for {five seconds} counts as failed", "server.staleAfter"},
	{
		"docs/operations.md", "precertificates that wait for a log with `embed: false` | it stays full ({256})",
		"ctlog.maxQueue",
	},
	{"docs/operations.md", "at most {four} times as many wait as there are slots", "oidc.queueFactor"},
	{
		"docs/operations.md",
		"The CA remembers {1,024} providers of each pattern with their keys, and {16 MiB} of key " +
			"sets in all",
		"oidc.maxPatternProviders oidc.maxPatternBytes",
	},
	{"docs/operations.md", "The CA makes the next shard `lead` ({30 days})", "tlog.defaultLead"},
	{"docs/operations.md", "The old shard stays open for {20 minutes}", "tlog.Overlap"},
	{"docs/operations.md", "A checkpoint waits at most {four seconds}", "tlog.witnessTimeout"},
	{
		"docs/operations.md", "A witness that fails {three} times gets no requests for {ten seconds}",
		"tlog.maxFailures tlog.asideFor",
	},
	{"docs/operations.md", "and after `stagger` ({500 ms}) without an answer", "ctlog.defaultStagger"},
	{
		"docs/operations.md", "for the time that its `Retry-After` header asks for, at most {five seconds}",
		"ctlog.maxHold",
	},
	{"docs/operations.md", "A failing log** is set aside after {five} failures in a row", "ctlog.tripAfter"},
	{"docs/operations.md", "with growing pauses of up to {a second}", "ctlog.maxBackoff"},
	{"docs/operations.md", "The budget** for all attempts is `budget` ({12 s})", "ctlog.defaultBudget"},
	{"docs/operations.md", "The time of an SCT must be within {a minute} of now", "ctlog.maxSkew"},
	{"docs/operations.md", "clock goes back by more than {two seconds} since the last certificate", "ca.maxStep"},
	{
		"docs/operations.md",
		"Readiness warns {90 days} before the first certificate of the chain expires, and fails " +
			"{one hour} before",
		"ca.warnBefore ca.unreadyAt",
	},
	{"docs/operations.md", "Both warn {90 days} before the last window ends", "node.warnAhead"},
	{"docs/operations.md", "of these, for logs (`ct.policy.budget`) | {12 seconds}", "ctlog.defaultBudget"},
	{"docs/operations.md", "one attempt at a provider or a log | {4 seconds}", "ctlog.defaultAttempt"},
	{"docs/operations.md", "requests at once (`limits.requests`) | {1024}", "server/admission.DefaultRequests"},
	{
		"docs/operations.md", "REST: {5 s} for headers, {30 s} between requests",
		"server.headerTimeout server.idleTimeout",
	},
	{
		"docs/operations.md", "body, headers, token | {64 KiB}, {32 KiB}, {16 KiB}",
		"server.DefaultBody server.DefaultHeader oidc.MaxSize",
	},
	{"docs/operations.md", "time for a request | {20 seconds}", "server.DefaultRequest"},
	{"docs/operations.md", "Running requests get up to {25 seconds}", "server.DefaultDrain"},
	{"docs/operations.md", "`listen.max_connection_age` (default: {30 minutes}, plus", "server.DefaultAge"},
	{
		"docs/operations.md", "a TLS handshake for a processor | {5 s} | {4096} | sources take turns",
		"server.headerTimeout server.handshakesWaiting",
	},
	{"docs/operations.md", "with a ping after {20 s} of silence", "server.pingAfter"},
	{"docs/operations.md", "a request that is being received | {10 s}", "server.bodyTimeout"},
	{
		"docs/operations.md", "(health watch, reflection) | {1 hour} | {1024} | {64}",
		"server.longStreamTime server.maxLongStreams server.longStreamShare",
	},
	{
		"docs/operations.md", "`limits.wait`: {1 s} for the first of its source | `limits.requests`: {1024}",
		"server/admission.DefaultMaxWait server/admission.DefaultRequests",
	},
	{
		"docs/operations.md", "if it delivers {4 MiB} in {a minute} without one complete request, or if " +
			"more than {16} requests in a row are refused",
		"server.floodBytes server.floodWindow server.maxRefusedStreams",
	},
	{
		"docs/operations.md", "After {eight} such connections, their source gets no new connection for {ten seconds}",
		"server.floodsAllowed server.blockTime",
	},

	{"docs/audit.md", "records gather for at most {8 ms}", "journal.maxCollect"},
	{
		"docs/audit.md", "the first {100} are written in full, then one every {10 seconds}",
		"journal.repeatBurst journal.repeatEvery",
	},
	{"docs/audit.md", "The {64} highest counts", "journal.maxReported"},
	{
		"docs/audit.md", "{50} a second are written on average, and up to {2,000} at once",
		"journal.verifiedRate journal.verifiedBurst",
	},
	{"docs/audit.md", "less than {256 MiB} free", "journal.maxReserve"},
	{"docs/audit.md", "Beyond {131,072} certificates", "journal.spoolLimit"},

	{
		"docs/config.md",
		"but for such tokens no more than {three} times at once and once in {five seconds} on average",
		"oidc.unknownKeyBurst oidc.unknownKeyEvery",
	},
	{"docs/config.md", "at start, then every {five minutes} in the background", "oidc.freshFor"},
	{"docs/errors.md", "key fetches for unknown key IDs are limited to one in {five seconds}", "oidc.unknownKeyEvery"},
	{"docs/config.md", "Keys that were good stay good for {24 hours}", "oidc.usableFor"},
	{"docs/config.md", "under a pattern {128 KiB}", "oidc.maxPatternBody"},
	{"docs/config.md", "A token without a key ID is tried with at most {64} keys", "oidc.maxCandidates"},

	{
		"docs/operations.md", "**The memory is bounded**: {65,536} sources, and as many identities",
		"server.maxLimitedSources",
	},
	{"docs/errors.md", "longer than `max` bytes ({16 KiB})", "oidc.MaxSize"},
	{
		"docs/errors.md", "more than {2,000} refusals of this identity, then more than {20} a second",
		"server.identityRefusalBurst server.identityRefusalRate",
	},
	{"docs/errors.md", "beyond a leeway of {60 s}", "oidc.leeway"},

	{
		"docs/security.md", "one shared fetch in {five seconds} per issuer, after a burst of {three}",
		"oidc.unknownKeyEvery oidc.unknownKeyBurst",
	},

	{"docs/invariants.md", "NotAfter is exactly {ten minutes} later", "ca.Validity"},
	{"docs/invariants.md", "valid for at least {nine minutes}", "ca.minLeft"},

	{
		"docs/compatibility.md", "{30 seconds} earlier (`ca.backdate`); NotAfter is exactly {10 minutes} after it",
		"ca.DefaultBackdate ca.Validity",
	},

	{
		"docs/performance.md", "Up to a {thousand} refusals a second for each processor",
		"server/admission.refusalsPerProcessor",
	},
	{
		"docs/performance.md", "lets the heap grow to {48 MiB} before each collection, or by {60} %",
		"node.heapFloor node.minGCPercent",
	},
}

// The figures in the documentation are those of the code.
func TestDocumentedNumbers(t *testing.T) {
	t.Parallel()
	known := constants(t)
	pages := map[string]string{}
	figure := regexp.MustCompile(`\{([^}]*)\}`)
	for _, n := range documentedNumbers {
		if pages[n.page] == "" {
			pages[n.page] = strings.Join(strings.Fields(readDoc(t, n.page)), " ")
		}
		if text := figure.ReplaceAllString(n.text, "$1"); !strings.Contains(pages[n.page], text) {
			t.Errorf("%s does not say %q", n.page, text)
		}
		figures, names := figure.FindAllStringSubmatch(n.text, -1), strings.Fields(n.constants)
		if len(figures) != len(names) {
			t.Errorf("%q: %d figures and %d constants", n.text, len(figures), len(names))
			continue
		}
		for i, name := range names {
			value := find(known, name)
			if value == nil {
				t.Errorf("%q: there is no constant %s", n.text, name)
			} else if want := quantity(figures[i][1]); value.ExactString() != want {
				t.Errorf("%s says %q in %q; %s is %s", n.page, figures[i][1], n.text, name, value)
			}
		}
	}
	pages["wire"] = readDoc(t, "cmd/mayfly/testdata/wire.golden")
	requests := strings.Count(pages["wire"], "\n=== ")
	if want := "has " + strconv.Itoa(requests) + " requests"; !strings.Contains(pages["docs/compatibility.md"], want) {
		t.Errorf("docs/compatibility.md does not say that the wire's golden file %s", want)
	}
}

// quantity is the value of a figure with its unit: durations in nanoseconds, sizes in bytes. Text is quoted.
func quantity(figure string) string {
	words := map[string]int64{
		"a": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "eight": 8, "nine": 9,
		"ten": 10, "thousand": 1000,
	}
	units := map[string]int64{
		"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "ms": 1e6, "s": 1e9, "second": 1e9, "seconds": 1e9, "minute": 60e9,
		"minutes": 60e9, "hour": 3600e9, "hours": 3600e9, "days": 24 * 3600e9,
	}
	number, unit, _ := strings.Cut(figure, " ")
	n, err := strconv.ParseInt(strings.ReplaceAll(number, ",", ""), 10, 64)
	if w, ok := words[number]; ok {
		n, err = w, nil
	}
	factor, ok := units[unit]
	if err != nil || !ok {
		return strconv.Quote(figure)
	}
	return strconv.FormatInt(n*factor, 10)
}

// constants are the constants of the product by DIRECTORY.NAME, as far as they are written with literals, units of time
// and constants of the same package.
func constants(t *testing.T) map[string]constant.Value {
	t.Helper()
	sources := map[string]ast.Expr{}
	for _, f := range parseAll(t) {
		name, tree := f.path, f.tree
		if f.test() {
			continue
		}
		for _, d := range tree.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, s := range g.Specs {
				spec, ok := s.(*ast.ValueSpec)
				for i := range spec.Values {
					if ok && len(spec.Values) == len(spec.Names) {
						sources[path.Dir(name)+"."+spec.Names[i].Name] = spec.Values[i]
					}
				}
			}
		}
	}
	out := map[string]constant.Value{}
	for name, e := range sources {
		if v := evaluate(e, name[:strings.LastIndex(name, ".")], sources, 8); v != nil {
			out[name] = v
		}
	}
	return out
}

// find returns the constant DIRECTORY.NAME, or else the only constant of that name in a directory below DIRECTORY, or
// nil.
func find(known map[string]constant.Value, name string) constant.Value {
	if v, ok := known[name]; ok {
		return v
	}
	dir, last, _ := strings.Cut(name, ".")
	var out constant.Value
	for key, v := range known {
		if strings.HasPrefix(key, dir+"/") && strings.HasSuffix(key, "."+last) {
			if out != nil {
				return nil
			}
			out = v
		}
	}
	return out
}

// evaluate returns the value of a constant expression, or nil.
func evaluate(e ast.Expr, dir string, sources map[string]ast.Expr, depth int) constant.Value {
	if depth == 0 {
		return nil
	}
	switch e := e.(type) {
	case *ast.BasicLit:
		return constant.MakeFromLiteral(e.Value, e.Kind, 0)
	case *ast.ParenExpr:
		return evaluate(e.X, dir, sources, depth-1)
	case *ast.Ident:
		if s, ok := sources[dir+"."+e.Name]; ok {
			return evaluate(s, dir, sources, depth-1)
		}
	case *ast.SelectorExpr:
		units := map[string]int64{"Millisecond": 1e6, "Second": 1e9, "Minute": 60e9, "Hour": 3600e9}
		if x, ok := e.X.(*ast.Ident); ok && x.Name == "time" && units[e.Sel.Name] != 0 {
			return constant.MakeInt64(units[e.Sel.Name])
		}
	case *ast.BinaryExpr:
		x, y := evaluate(e.X, dir, sources, depth-1), evaluate(e.Y, dir, sources, depth-1)
		if x == nil || y == nil {
			return nil
		}
		if e.Op == token.SHL {
			n, _ := constant.Uint64Val(y)
			return constant.Shift(x, token.SHL, uint(n))
		}
		if e.Op == token.MUL || e.Op == token.ADD || e.Op == token.SUB {
			return constant.BinaryOp(x, e.Op, y)
		}
	}
	return nil
}
