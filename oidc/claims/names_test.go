package claims

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// A nameTarget is one mapping from claims to a name: an identity type, or a profile. The test computes the claims from
// the finished name, independently of the code that made the name: read splits the name into groups, each group is
// decoded once, and the groups must equal the claims in vary. Two different sets of claims therefore cannot have the
// same name.
type nameTarget struct {
	name   string
	mapper *Mapper
	claims map[string]any    // of a typical token
	vary   []string          // claims in the name
	begin  map[string]string // common beginning of the values of a claim
	end    string            // common end
	// The groups of read are the claims in vary, percent-encoded. Nil: the name is the first claim, or the result of
	// whole.
	read   *regexp.Regexp
	whole  func(sub string) string
	raw    string // text from which Fulcio makes the name, with <claim> for each claim; "" if the name is a claim
	joined bool   // Fulcio joins it as a path
}

const issuerOfNames = "https://issuer.example.com"

// newMapper compiles the mapping of an issuer as package issuer does.
func newMapper(issuer string, c MappingConfig, profiles map[string]ProfileConfig) (*Mapper, error) {
	library, err := NewLibrary(profiles)
	if err != nil {
		return nil, err
	}
	if c, err = c.Resolve(); err != nil {
		return nil, err
	}
	return library.NewMapper(issuer, c)
}

func mapperFor(t testing.TB, issuer string, c MappingConfig, profiles map[string]ProfileConfig) *Mapper {
	t.Helper()
	m, err := newMapper(issuer, c, profiles)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// nameTargets returns all types and profiles twice: with mayfly's rules and with Fulcio's.
func nameTargets(t testing.TB) []*nameTarget {
	t.Helper()
	github := map[string]any{
		"sub": "s", "event_name": "push", "job_workflow_ref": "o/r/.github/workflows/r.yml@refs/heads/main",
		"ref": "refs/heads/main", "repository": "o/r",
		"repository_id": "1", "repository_owner": "o", "repository_owner_id": "2", "repository_visibility": "public",
		"run_attempt": "1", "run_id": "9",
		"runner_environment": "github-hosted", "sha": "a", "workflow": "w", "workflow_ref": "o/r/x@y",
		"workflow_sha": "b", "job_workflow_sha": "c",
	}
	gitlab := map[string]any{
		"sub": "s", "ci_config_ref_uri": "gitlab.com/a/b//.gitlab-ci.yml@refs/heads/main", "ci_config_sha": "d",
		"job_id": "31", "namespace_id": "12",
		"namespace_path": "a", "pipeline_id": "1", "pipeline_source": "push", "project_id": "34", "project_path": "a/b",
		"project_visibility": "private",
		"ref":                "main", "ref_type": "branch", "runner_environment": "x",
		"runner_id": json.Number("1"), "sha": "c",
	}
	codefresh := map[string]any{
		"sub": "s", "account_id": "i", "account_name": "n", "pipeline_id": "p",
		"pipeline_name": "x/y", "workflow_id": "w",
	}
	buildkite := map[string]any{
		"sub": "s", "organization_slug": "o", "pipeline_slug": "p", "build_commit": "c",
		"build_number": json.Number("4"), "build_source": "ui", "job_id": "j",
		"runner_environment": "x",
	}
	must := regexp.MustCompile
	const pathText, segment = `([^?#]+)`, `([^/?#]+)`
	flow := map[string]string{"job_workflow_ref": "o/r/.github/workflows/r.yml@refs/heads/"}
	ofGitLab := map[string]string{"ci_config_ref_uri": "gitlab.com/a/b//.gitlab-ci.yml@refs/heads/"}
	const codefreshRaw = "https://g.codefresh.io/<account_name>/<pipeline_name>:<account_id>/<pipeline_id>"
	codefreshRead := must(`^https://g\.codefresh\.io/` + segment + `/(.+):([^:/?#]+)/` + segment + `$`)
	codefreshVary := []string{"account_name", "pipeline_name", "account_id", "pipeline_id"}
	circle := "oidc.circleci.com/"
	targets := []nameTarget{
		{
			name: "type email", claims: map[string]any{"sub": "s", "email": "a@example.com", "email_verified": true},
			vary: []string{"email"}, end: "@example.com",
		},
		{
			name: "type uri", claims: map[string]any{"sub": "https://example.com/x"}, vary: []string{"sub"},
			begin: map[string]string{"sub": "https://example.com/"},
		},
		{
			name: "type username", claims: map[string]any{"sub": "alice"}, vary: []string{"sub"},
			whole: func(s string) string { return s + "!example.com" },
		},
		{
			name: "type spiffe", claims: map[string]any{"sub": "spiffe://td/x"}, vary: []string{"sub"},
			begin: map[string]string{"sub": "spiffe://td/"},
		},
		{
			name: "type kubernetes", claims: map[string]any{"sub": "s"}, vary: []string{"namespace", "name"},
			read: must(`^https://kubernetes\.io/namespaces/([a-z0-9.-]+)/serviceaccounts/([a-z0-9.-]+)$`),
			raw:  "https://kubernetes.io/namespaces/<namespace>/serviceaccounts/<name>",
		},
		{
			name: "type chainguard-identity", claims: map[string]any{"sub": "a/b"}, vary: []string{"sub"},
			read: must(`^https://issuer\.example\.com/` + pathText + `$`), raw: issuerOfNames + "/<sub>", joined: true,
		},
		{
			name: "type github-workflow", claims: github, vary: []string{"job_workflow_ref"}, begin: flow,
			read: must(`^https://github\.com/` + pathText + `$`),
			raw:  "https://github.com/<job_workflow_ref>", joined: true,
		},
		{
			name: "type gitlab-pipeline", claims: gitlab, vary: []string{"ci_config_ref_uri"}, begin: ofGitLab,
			read: must(`^https://` + pathText + `$`), raw: "https://<ci_config_ref_uri>",
		},
		{
			name: "type buildkite-job", claims: buildkite, vary: []string{"organization_slug", "pipeline_slug"},
			read: must(`^https://buildkite\.com/` + segment + `/` + segment + `$`),
			raw:  "https://buildkite.com/<organization_slug>/<pipeline_slug>", joined: true,
		},
		{
			name: "type codefresh-workflow", claims: codefresh, vary: codefreshVary, read: codefreshRead,
			raw: codefreshRaw, joined: true,
		},
		{
			name: "github-workflow", claims: github, vary: []string{"job_workflow_ref"}, begin: flow,
			read: must(`^https://ci\.example\.com/` + pathText + `$`), raw: "https://ci.example.com/<job_workflow_ref>",
		},
		{
			name: "gitlab-pipeline", claims: with(gitlab, "ci_config_ref_uri", "ci.example.com/x"),
			vary:  []string{"ci_config_ref_uri"},
			begin: map[string]string{"ci_config_ref_uri": "ci.example.com/a/b//.gitlab-ci.yml@refs/heads/"},
			read:  must(`^https://` + pathText + `$`), raw: "https://<ci_config_ref_uri>",
		},
		{
			name: "codefresh-workflow", claims: with(codefresh, "platform_url", "https://ci.example.com"),
			vary: codefreshVary,
			read: must(strings.Replace(codefreshRead.String(), `g\.codefresh\.io`, `ci\.example\.com`, 1)),
			raw:  strings.Replace(codefreshRaw, "g.codefresh.io", "ci.example.com", 1),
		},
		{
			name: "buildkite-job", claims: buildkite, vary: []string{"organization_slug", "pipeline_slug"},
			read: must(`^https://ci\.example\.com/` + segment + `/` + segment + `$`),
			raw:  "https://ci.example.com/<organization_slug>/<pipeline_slug>",
		},
		{
			name: "circleci-job", claims: map[string]any{
				"sub": "s", circle + "job-id": "J", circle + "pipeline-definition-id": "D",
				circle + "pipeline-id": "PL", circle + "project-id": "P",
				circle + "ssh-rerun": false, circle + "workflow-id": "W",
			}, vary: []string{circle + "project-id", circle + "pipeline-definition-id"},
			read: must(`^https://ci\.example\.com/projects/` + segment + `/pipeline-definitions/` + segment + `$`),
			raw: "https://ci.example.com/projects/<" + circle + "project-id>/pipeline-definitions/<" + circle +
				"pipeline-definition-id>",
		},
		{
			name: "buddy-pipeline", claims: map[string]any{
				"sub": "s", "workspace_domain": "w", "project_name": "p", "pipeline_id": json.Number("12"),
				"execution_id": "9", "runner_environment": "x", "triggered_on": "E",
			}, vary: []string{"workspace_domain", "project_name", "pipeline_id"},
			read: must(`^https://ci\.example\.com/` + segment + `/` + segment +
				`/pipelines/pipeline/` + segment + `$`),
			raw: "https://ci.example.com/<workspace_domain>/<project_name>/pipelines/pipeline/<pipeline_id>",
		},
		{
			name: "azure-pipelines", claims: map[string]any{
				"sub": "s", "prj_id": "1", "def_id": "2", "org_id": "3",
				"run_id": "4",
			}, vary: []string{"prj_id", "def_id"},
			read: must(`^https://ci\.example\.com/` + segment + `/_build\?definitionId=([^/?#&]+)$`),
			raw:  "https://ci.example.com/<prj_id>/_build?definitionId=<def_id>",
		},
		{
			name: "bitbucket-pipelines", claims: map[string]any{
				"sub": "s", "workspaceUuid": "{1}", "repositoryUuid": "{2}", "pipelineUuid": "{3}", "stepUuid": "{4}",
			}, vary: []string{"workspaceUuid", "repositoryUuid"},
			read: must(`^https://ci\.example\.com/` + segment + `/` + segment + `$`),
			raw:  "https://ci.example.com/<workspaceUuid>/<repositoryUuid>",
		},
		{
			name: "jenkins", claims: map[string]any{"sub": "https://ci.example.com/job/a/", "build_number": "1"},
			vary: []string{"sub"}, begin: map[string]string{"sub": "https://ci.example.com/job/"},
		},
		{
			name:   "google-cloud-service-account",
			claims: map[string]any{"sub": "s", "email": "a@x.iam.gserviceaccount.com", "email_verified": true},
			vary:   []string{"email"},
			end:    "@x.iam.gserviceaccount.com",
		},
		{
			name: "aws-identity", claims: map[string]any{"sub": "arn:aws:iam::1:role/x"}, vary: []string{"sub"},
			begin: map[string]string{"sub": "arn:aws:iam::1:role/"},
		},
		{
			name: "hcp-terraform", claims: map[string]any{
				"sub": "s", "terraform_organization_name": "o", "terraform_workspace_name": "w",
				"terraform_run_phase": "plan", "terraform_run_id": "1",
			}, vary: []string{"terraform_organization_name", "terraform_workspace_name"},
			read: must(`^https://ci\.example\.com/app/` + segment + `/workspaces/` + segment + `$`),
			raw:  "https://ci.example.com/app/<terraform_organization_name>/workspaces/<terraform_workspace_name>",
		},
		// Profiles of an issuer file.
		{
			name: "file two", claims: map[string]any{"sub": "s", "a": "x", "b": "y"}, vary: []string{"a", "b"},
			read: must(`^https://ci\.example\.com/([^@?#]+)@` + pathText + `$`), raw: "https://ci.example.com/<a>@<b>",
		},
		{
			name: "file words", claims: map[string]any{"sub": "s", "a": "x", "b": "y"}, vary: []string{"a", "b"},
			read: must(`^https://ci\.example\.com/(.+?)/-/b/` + pathText + `$`),
			raw:  "https://ci.example.com/<a>/-/b/<b>",
		},
		{
			name: "file host", claims: map[string]any{"sub": "s", "a": "x", "b": "y"}, vary: []string{"a", "b"},
			read: must(`^https://([a-z0-9._-]+)\.ci\.example\.com/` + pathText + `$`),
			raw:  "https://<a>.ci.example.com/<b>",
		},
		{
			name: "file chained", claims: map[string]any{"sub": "s", "base": "https://h.example", "b": "y"},
			vary:  []string{"base", "b"},
			begin: map[string]string{"base": "https://"}, read: must(`^(https?://[a-z0-9._:-]+)/` + pathText + `$`),
			raw: "<base>/<b>",
		},
	}
	files := map[string]ProfileConfig{
		"two":   {SAN: "https://ci.example.com/{{.a}}@{{.b}}"},
		"words": {SAN: `{{printf "https://ci.example.com/%s" .a}}/-/b/{{.b}}`},
		"host":  {SAN: "https://{{.a}}.ci.example.com/{{.b}}"},
		"chained": {
			SAN: "{{.base}}/{{.b}}", Defaults: map[string]string{"base": "https://d.example"},
			Claims: []string{"base"},
		},
	}
	seen := map[string]bool{}
	var out []*nameTarget
	for _, one := range targets {
		seen[one.name] = true
		for _, compat := range []string{"", "fulcio"} {
			target := one
			issuer := issuerOfNames
			c := MappingConfig{Compat: compat}
			switch kind, name, _ := strings.Cut(one.name, " "); kind {
			case "type":
				c.Type, c.SPIFFETrustDomain = name, map[string]string{"spiffe": "td"}[name]
				c.SubjectDomain = map[string]string{"uri": "https://example.com", "username": "example.com"}[name]
			case "file":
				c.Type, c.CIProvider = "ci-provider", name
			default:
				c.Profile, c.Parameters = one.name, map[string]string{}
				for p := range profileInfo(one.name).Parameters {
					if one.name != "codefresh-workflow" {
						c.Parameters[p] = "https://ci.example.com"
					}
				}
				if one.name == "codefresh-workflow" {
					issuer = "https://oidc.codefresh.io"
				}
			}
			mapper, err := newMapper(issuer, c, files)
			if err != nil {
				t.Fatalf("%s: %v", one.name, err)
			}
			target.mapper = mapper
			target.claims = with(one.claims, "iss", issuer)
			if compat != "" {
				target.name += " compat"
			}
			out = append(out, &target)
		}
	}
	for _, name := range Types() {
		if name != "ci-provider" && !seen["type "+name] {
			t.Fatalf("the type %s has no target", name)
		}
	}
	for _, p := range Profiles() {
		if !seen[p.Name] {
			t.Fatalf("the profile %s has no target", p.Name)
		}
	}
	return out
}

func profileInfo(name string) ProfileInfo {
	for _, p := range Profiles() {
		if p.Name == name {
			return p
		}
	}
	return ProfileInfo{}
}

func with(claims map[string]any, name string, v any) map[string]any {
	out := maps.Clone(claims)
	out[name] = v
	return out
}

// set changes a claim. Those of Kubernetes are nested.
func (n *nameTarget) set(c token.Claims, name string, v any) token.Claims {
	if n.vary[0] != "namespace" {
		c[name] = v
		return c
	}
	k, _ := c["kubernetes.io"].(map[string]any)
	account := map[string]any{"name": "n"}
	inner := map[string]any{"namespace": "ns", "serviceaccount": account}
	if k != nil {
		old, _ := k["serviceaccount"].(map[string]any)
		inner["namespace"], account["name"] = k["namespace"], old["name"]
	}
	if name == "name" {
		account["name"] = v
	} else {
		inner["namespace"] = v
	}
	c["kubernetes.io"] = inner
	return c
}

func (n *nameTarget) get(c token.Claims, name string) any {
	if n.vary[0] != "namespace" {
		return c[name]
	}
	k, _ := c["kubernetes.io"].(map[string]any)
	if name == "namespace" {
		return k["namespace"]
	}
	account, _ := k["serviceaccount"].(map[string]any)
	return account["name"]
}

func (n *nameTarget) lenient() bool { return strings.HasSuffix(n.name, " compat") }

// Grammar of RFC 3986 §3, written for this test independently of the code.
var (
	pathOfRFC  = regexp.MustCompile(`^(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-F]{2})*$`)
	queryOfRFC = regexp.MustCompile(`^(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]|%[0-9A-Fa-f]{2})*$`)
	partsOfRFC = regexp.MustCompile(`^(?:([^:/?#]+):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?$`) // Appendix B
	hostOfRFC  = regexp.MustCompile(`^[a-z0-9._-]+(?::[0-9]+)?$`)
	secret     = regexp.MustCompile(`[\x00-\x1f\x7f-\x{9f}\x{ad}\x{200b}-\x{200f}\x{2028}-\x{202e}\x{2060}-\x{206f}\x{feff}\x{e0000}-\x{e007f}]`)
)

// check compares a name with its claims.
func (n *nameTarget) check(san identity.SAN, c token.Claims) error {
	text := make([]string, len(n.vary))
	for i, name := range n.vary {
		switch v := n.get(c, name).(type) {
		case string:
			text[i] = v
		case json.Number:
			text[i] = v.String()
		case bool:
			text[i] = strconv.FormatBool(v)
		case nil:
			if n.lenient() || name == "base" && strings.HasPrefix(san.Value, "https://d.example/") {
				return nil
			}
			return fmt.Errorf("%s is absent", name)
		default:
			return fmt.Errorf("%s is %v, which is no text", name, v)
		}
	}
	if secret.MatchString(san.Value) {
		return fmt.Errorf("a character that cannot be seen")
	}
	if n.lenient() {
		return n.checkFulcio(san.Value, text)
	}
	if n.read == nil {
		want := text[0]
		if n.whole != nil {
			want = n.whole(want)
		}
		if san.Value != want {
			return fmt.Errorf("want %q", want)
		}
	} else {
		groups := n.read.FindStringSubmatch(san.Value)
		if groups == nil {
			return fmt.Errorf("not of the form %s", n.read)
		}
		for i, want := range text {
			if got, err := url.PathUnescape(groups[i+1]); err != nil || got != want {
				return fmt.Errorf("%s reads %q (%w); the claim is %q", n.vary[i], got, err, want)
			}
		}
	}
	if san.Kind != identity.URI {
		return nil
	}
	return checkRFC(san.Value, n.mapper.Type == "uri", strings.HasPrefix(n.name, "azure"),
		strings.Contains(n.name, "gitlab"))
}

// checkRFC parses a URI with the grammar of RFC 3986 and checks the segments of its path, decoded once and twice.
func checkRFC(uri string, anyQuery, query, gitlab bool) error {
	m := partsOfRFC.FindStringSubmatch(uri)
	switch {
	case m == nil || m[1] == "" || m[1] != strings.ToLower(m[1]):
		return fmt.Errorf("no scheme")
	case strings.Contains(uri, "://") && !hostOfRFC.MatchString(m[2]):
		return fmt.Errorf("the authority is %q", m[2])
	case !pathOfRFC.MatchString(m[3]) || !queryOfRFC.MatchString(m[4]) || !queryOfRFC.MatchString(m[5]):
		return fmt.Errorf("not by RFC 3986")
	case !anyQuery && (strings.Contains(uri, "#") || strings.Contains(uri, "?") != query):
		return fmt.Errorf("a query or a fragment")
	}
	trimmed := strings.Trim(m[3], "/")
	if gitlab { // PROJECT//FILE@REF
		trimmed = strings.Replace(trimmed, "//", "/", 1)
	}
	once, err := url.PathUnescape(trimmed)
	if err != nil {
		return err
	}
	twice := regexp.MustCompile(`%[0-9A-Fa-f]{2}`).ReplaceAllStringFunc(once, func(s string) string {
		b, _ := strconv.ParseUint(s[1:], 16, 8)
		return string([]byte{byte(b)})
	})
	for i, text := range []string{trimmed, once, twice} {
		for _, segment := range strings.FieldsFunc(text, func(r rune) bool { return r == '\\' }) {
			for _, s := range strings.Split(segment, "/") {
				if s == "." || s == ".." || s == "" && i < 2 && trimmed != "" && strings.Count(trimmed, "//") > 0 {
					return fmt.Errorf("the part %q of %q", s, text)
				}
			}
		}
	}
	return nil
}

// checkFulcio computes the name as Fulcio does, with net/url.
func (n *nameTarget) checkFulcio(san string, text []string) error {
	if n.raw == "" {
		want := text[0]
		if n.whole != nil {
			want = n.whole(want)
		}
		if san != want {
			return fmt.Errorf("want %q", want)
		}
		return nil
	}
	raw := n.raw
	replace := make([]string, 0, 2*len(text))
	for i, name := range n.vary {
		replace = append(replace, "<"+name+">", text[i])
	}
	raw = strings.NewReplacer(replace...).Replace(raw)
	var want string
	if n.joined {
		base := raw[:strings.Index(n.raw, "<")]
		u, err := url.Parse(base)
		if err != nil {
			return err
		}
		want = u.JoinPath(raw[len(base):]).String()
	} else {
		u, err := url.Parse(raw)
		if err != nil {
			return err
		}
		want = u.String()
	}
	if san != want {
		return fmt.Errorf("Fulcio: %q", want)
	}
	return nil
}

// nameWords are the building blocks of random claims: parts of paths, escapes and the delimiters of URIs.
var nameWords = []string{
	"a", "b", "c", "main", "x-y", "v1", "a", "b", "c", "main", "7", "/", "/", "-", ".", "..", "_", "~", ".yml",
	"@refs/heads/", "é", "日本", "e\u0301", " ",
	"%", "%2", "%2e", "%2E", "%2f", "%2F", "%61", "%20", "%25", "%252e", "%c3%a9", "%C3%A9", "%0a", "%zz", "2", "e",
	"f", "?", "#", "\\", "\"", "<", ">", "{", "}", "|", "^", "@",
	":", "!", "&", "=", "+", ",", ";", "(", ")", "*", "'", "$", "[", "]", "`", "\u200b", "\u202e", "\u2067", "\u00ad",
	"\x00", "\n", "A", "//", "/../", "http://", "%2e%2e%2f", "/-/b/",
}

func randomName(r *rand.Rand) string {
	var b strings.Builder
	for range 1 + r.IntN(4) {
		w := r.IntN(len(nameWords))
		if r.IntN(3) > 0 {
			w = r.IntN(10)
		}
		b.WriteString(nameWords[w])
	}
	return b.String()
}

// variant returns a text that a careless encoder, decoder or path cleaner would treat like s.
func variant(s string, k int) string {
	switch k % 10 {
	case 0:
		if u, err := url.PathUnescape(s); err == nil {
			return u
		}
	case 1:
		return url.PathEscape(s)
	case 2:
		return path.Clean(s)
	case 3:
		return s + "/"
	case 4:
		return "/" + s
	case 5:
		return strings.ReplaceAll(s, "/", "//")
	case 6:
		return strings.ReplaceAll(s, "a", "%61")
	case 7:
		return strings.ReplaceAll(s, " ", "%20")
	case 8:
		return strings.ToUpper(s)
	}
	return (&url.URL{Path: s}).EscapedPath()
}

// try maps one set of claims, and a second set that differs in one claim.
func (n *nameTarget) try(c token.Claims, vary string, other any) (named bool, err error) {
	one, err := n.mapper.Identity(c)
	if err != nil {
		if fault.From(err).Reason == fault.InternalError {
			return false, err
		}
		if f := fault.From(err); f.Meta["claim"] == "" && f.Reason != fault.EmailUnverified ||
			f.Meta["claim"] == "san" {
			return false, fmt.Errorf("the refusal names no claim: %w", err)
		}
		return false, nil
	}
	if err := n.check(one.SAN, c); err != nil {
		return true, fmt.Errorf("%v gives %s %q: %w", n.texts(c), one.SAN.Kind, one.SAN.Value, err)
	}
	before := n.texts(c)
	old := n.get(c, vary)
	two, err := n.mapper.Identity(n.set(c, vary, other))
	after := n.texts(c)
	n.set(c, vary, old)
	if err == nil && two.SAN == one.SAN && !slices.Equal(before, after) {
		return true, fmt.Errorf("%q and %q are both %q", before, after, one.SAN.Value)
	}
	return true, nil
}

func (n *nameTarget) texts(c token.Claims) []string {
	out := make([]string, len(n.vary))
	for i, name := range n.vary {
		if v := n.get(c, name); v != nil {
			out[i] = fmt.Sprint(v)
		}
	}
	return out
}

// run tries count sets of claims.
func (n *nameTarget) run(r *rand.Rand, count int) (named int, err error) {
	c := token.Claims(maps.Clone(n.claims))
	for _, name := range n.vary {
		n.set(c, name, n.value(r, name))
	}
	for i := range count {
		name := n.vary[r.IntN(len(n.vary))]
		n.set(c, name, n.value(r, name))
		if i%5 == 0 { // typical values again, so that one unusual claim does not refuse all sets
			for _, v := range n.vary {
				n.set(c, v, n.plain(v))
			}
			n.set(c, name, n.value(r, name))
		}
		vary := n.vary[r.IntN(len(n.vary))]
		var other any = randomName(r)
		if s, isString := n.get(c, vary).(string); isString && r.IntN(4) > 0 {
			other = variant(s, r.IntN(10))
		}
		ok, err := n.try(c, vary, other)
		if err != nil {
			return named, err
		}
		if ok {
			named++
		}
	}
	return named, nil
}

func (n *nameTarget) plain(name string) any {
	if v, ok := n.claims[name]; ok {
		return v
	}
	return "plain"
}

func (n *nameTarget) value(r *rand.Rand, name string) any {
	switch r.IntN(64) {
	case 0:
		return []any{"a", json.Number("1")}
	case 1:
		return map[string]any{"a": "b"}
	case 2:
		return nil
	case 3:
		return ""
	case 4:
		return json.Number("17")
	}
	if begin := n.begin[name]; begin != "" && r.IntN(4) > 0 {
		return begin + randomName(r)
	}
	if n.end != "" && r.IntN(4) > 0 {
		return randomName(r) + n.end
	}
	return randomName(r)
}

// D11 // D12 // D13 // D14 // D15: for every type and profile, the claims can be read back from the name, different
// claims give different names, and every refusal names a claim. MAYFLY_NAMES=10000000 sets the number of sets of claims
// for each.
func TestNames(t *testing.T) { //nolint:tparallel // the subtests must end before the sum is checked
	t.Parallel()
	count := 2000
	if text := os.Getenv("MAYFLY_NAMES"); text != "" {
		var err error
		if count, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	var total, certified atomic.Int64
	t.Run("targets", func(t *testing.T) {
		for i, n := range nameTargets(t) {
			t.Run(n.name, func(t *testing.T) {
				t.Parallel()
				named, err := n.run(rand.New(rand.NewPCG(uint64(i), rand.Uint64())), count)
				if err != nil {
					t.Error(err)
				}
				if named < count/2000 { // of two thousand, twelve are certified of the least lucky target
					t.Errorf("only %d of %d are certified", named, count)
				}
				total.Add(int64(count))
				certified.Add(int64(named))
				t.Logf("%d tried, %d certified", count, named)
			})
		}
	})
	t.Logf("%d sets of claims, %d certified and read back", total.Load(), certified.Load())
}

// fuzzName does the same with values from the fuzzer.
func fuzzName(f *testing.F, name string) {
	f.Helper()
	for _, s := range []string{
		"a", "a b", "m%61in", "100%", "%2e%2e%2f", "é", "a/b", "x y.yml@refs/heads/main",
		"a?b#c", "\u202e",
	} {
		f.Add(s, "b", uint8(0))
		f.Add(s, s, uint8(1))
	}
	var both []*nameTarget
	for _, n := range nameTargets(f) {
		if strings.TrimSuffix(n.name, " compat") == name {
			both = append(both, n)
		}
	}
	if len(both) != 2 {
		f.Fatalf("%d targets are named %s", len(both), name)
	}
	f.Fuzz(func(t *testing.T, one, two string, k uint8) {
		for _, n := range both {
			vary := n.vary[int(k)%len(n.vary)]
			for _, begin := range slices.Compact([]string{"", n.begin[vary]}) {
				c := token.Claims(maps.Clone(n.claims))
				for _, v := range n.vary {
					n.set(c, v, n.plain(v))
				}
				n.set(c, vary, begin+one+n.end)
				if second := n.vary[int(k/16)%len(n.vary)]; second != vary {
					n.set(c, second, n.begin[second]+two)
				}
				for _, other := range []string{begin + two + n.end, variant(begin+one+n.end, int(k))} {
					if _, err := n.try(c, vary, other); err != nil {
						t.Errorf("%s: %v", n.name, err)
					}
				}
			}
		}
	})
}

func FuzzNameEmail(f *testing.F)         { fuzzName(f, "type email") }
func FuzzNameURI(f *testing.F)           { fuzzName(f, "type uri") }
func FuzzNameUsername(f *testing.F)      { fuzzName(f, "type username") }
func FuzzNameSPIFFE(f *testing.F)        { fuzzName(f, "type spiffe") }
func FuzzNameKubernetes(f *testing.F)    { fuzzName(f, "type kubernetes") }
func FuzzNameChainguard(f *testing.F)    { fuzzName(f, "type chainguard-identity") }
func FuzzNameTypeGitHub(f *testing.F)    { fuzzName(f, "type github-workflow") }
func FuzzNameTypeGitLab(f *testing.F)    { fuzzName(f, "type gitlab-pipeline") }
func FuzzNameTypeBuildkite(f *testing.F) { fuzzName(f, "type buildkite-job") }
func FuzzNameTypeCodefresh(f *testing.F) { fuzzName(f, "type codefresh-workflow") }
func FuzzNameGitHub(f *testing.F)        { fuzzName(f, "github-workflow") }
func FuzzNameGitLab(f *testing.F)        { fuzzName(f, "gitlab-pipeline") }
func FuzzNameCodefresh(f *testing.F)     { fuzzName(f, "codefresh-workflow") }
func FuzzNameBuildkite(f *testing.F)     { fuzzName(f, "buildkite-job") }
func FuzzNameCircleCI(f *testing.F)      { fuzzName(f, "circleci-job") }
func FuzzNameBuddy(f *testing.F)         { fuzzName(f, "buddy-pipeline") }
func FuzzNameAzure(f *testing.F)         { fuzzName(f, "azure-pipelines") }
func FuzzNameBitbucket(f *testing.F)     { fuzzName(f, "bitbucket-pipelines") }
func FuzzNameJenkins(f *testing.F)       { fuzzName(f, "jenkins") }
func FuzzNameGoogle(f *testing.F)        { fuzzName(f, "google-cloud-service-account") }
func FuzzNameAWS(f *testing.F)           { fuzzName(f, "aws-identity") }
func FuzzNameTerraform(f *testing.F)     { fuzzName(f, "hcp-terraform") }
func FuzzNameFile(f *testing.F)          { fuzzName(f, "file two") }
func FuzzNameFileWords(f *testing.F)     { fuzzName(f, "file words") }
func FuzzNameFileHost(f *testing.F)      { fuzzName(f, "file host") }
func FuzzNameFileChained(f *testing.F)   { fuzzName(f, "file chained") }
